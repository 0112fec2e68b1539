"""The recorder misses nothing that the kernel sees: the real program under strace."""

from pathlib import Path

from tests.crash.explore import scratch
from tests.crash.judge import clean
from tests.crash.process import install_twice
from tests.crash.record import Kind, Medium, Op
from tests.crash.trace import parse_trace


def test_the_recorder_and_strace_say_the_same_of_an_install() -> None:
    folder = scratch()
    try:
        by_strace, by_recorder = install_twice(folder)
    finally:
        clean(folder)
    assert by_strace.durable_steps() == by_recorder.durable_steps()
    assert by_strace.written() == by_recorder.written()
    assert {op.medium for op in by_strace.log} == set(Medium)
    assert sum(op.kind is Kind.SYNC for op in by_strace.log) > 20
    for one in (by_strace, by_recorder):
        end = one.replayed()
        assert end.state == one.end.state
        assert end.slots == one.end.slots
        assert end.esp == one.end.esp


def line(text: str) -> str:
    """A line as strace -xx writes it: strings and paths of descriptors in hexadecimal."""
    parts = text.split("'")
    for index in range(1, len(parts), 2):
        parts[index] = "".join(f"\\x{byte:02x}" for byte in parts[index].encode())
    return "".join(parts)


def test_calls_that_are_interrupted_and_held_files(tmp_path: Path) -> None:
    at = str(tmp_path)
    text = "\n".join(
        line(one)
        for one in (
            f"7 openat(AT_FDCWD<'/'>, \"'{at}/state/new'\", O_WRONLY|O_CREAT, 0666) = 5<'{at}/state/new'>",
            f"7 write(5<'{at}/state/new'>, \"'abc'\", 3 <unfinished ...>",
            f"8 mkdir(\"'{at}/state/other'\", 0777) = 0",
            "7 <... write resumed>)           = 3",
            f"7 write(5<'{at}/state/new'>, \"'defg'\", 4) = 2",
            f"7 fdatasync(5<'{at}/state/new'>) = -1 EIO (Input/output error)",
            f"7 fdatasync(5<'{at}/state/new'>) = 0",
            f"7 openat(AT_FDCWD<'/'>, \"'{at}/esp/a'\", O_RDONLY) = 6<'{at}/esp/a'>",
            f"7 unlink(\"'{at}/esp/a'\") = 0",
            f"7 close(6<'{at}/esp/a'>(deleted)) = 0",
            f"7 openat(AT_FDCWD<'/'>, \"'{at}/elsewhere'\", O_WRONLY|O_CREAT, 0666) = 6<'{at}/elsewhere'>",
        )
    )
    assert parse_trace(text, tmp_path, {(Medium.ESP, "a"): 9}) == [
        Op(Kind.CREATE, Medium.STATE, "new"),
        Op(Kind.MKDIR, Medium.STATE, "other"),
        Op(Kind.WRITE, Medium.STATE, "new", offset=0, data=b"abc"),
        Op(Kind.WRITE, Medium.STATE, "new", offset=3, data=b"de"),
        Op(Kind.SYNC, Medium.STATE, "new"),
        Op(Kind.UNLINK, Medium.ESP, "a", new="held"),
        Op(Kind.CLOSE, Medium.ESP, "a"),
    ]
