"""build.py: any two files, the same bytes whatever the jobs, whole output or none."""

import gzip
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.frame import FrameKind
from slipstream.delta.limits import KIB, MIB
from slipstream.server.build import BuiltPayload, build_payload
from slipstream.server.patch import apply_payload

MEMORY = 96 * MIB


def _random(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def _release(seed: int = 1, size: int = 6 * MIB) -> bytes:
    """Something like an image: files on 1 KiB blocks, zeros between."""
    random = np.random.default_rng(seed)
    image = b""
    while len(image) < size:
        image += _random(int(random.integers(1, 400)) * KIB, int(random.integers(1000)))
        image += bytes(int(random.integers(0, 100)) * KIB)
    return image[:size]


def _next_release(image: bytes) -> bytes:
    """An edited file, an inserted one, a moved one, a removed one."""
    edited = bytearray(image)
    for at in range(700_000, 900_000, 333):
        edited[at] ^= 0x5A
    moved = edited[5 * MIB :]
    return bytes(moved + edited[:MIB] + _random(100 * KIB, 77) + edited[MIB : 4 * MIB])


def _build(
    folder: Path, source: bytes | None, target: bytes, **options: object
) -> tuple[BuiltPayload, bytes]:
    (folder / "target").write_bytes(target)
    path = None
    if source is not None:
        path = folder / "source"
        path.write_bytes(source)
    output = folder / "payload"
    built = build_payload(path, folder / "target", output, memory_bytes=MEMORY, **options)
    apply_payload(path, output, folder / "made")
    assert (folder / "made").read_bytes() == target
    assert built.payload_size == output.stat().st_size
    assert sum(built.target_bytes.values()) == len(target)
    assert sum(built.frames.values()) == len(built.index.frames)
    return built, output.read_bytes()


SIZES = [0, 1, 1023, 1024, 4096, 5000, 130_001]


@pytest.mark.parametrize("target_size", SIZES)
@pytest.mark.parametrize("source_size", [None, *SIZES])
def test_any_two_files(tmp_path: Path, source_size: int | None, target_size: int) -> None:
    source = None if source_size is None else _random(source_size)
    _build(tmp_path, source, _random(target_size), profile="fast", jobs=1)
    _build(tmp_path, source, bytes(target_size), profile="fast", jobs=1)
    _build(tmp_path, source, _random(target_size, 2), profile="fast", jobs=1)


def test_equal_images_are_copied(tmp_path: Path) -> None:
    image = _release()
    built, payload = _build(tmp_path, image, image)
    assert built.encoded_bytes.get(FrameKind.COPY) == 0
    assert len(payload) < 1500


def test_a_delta_is_small(tmp_path: Path) -> None:
    image = _release()
    built, payload = _build(tmp_path, image, _next_release(image))
    assert len(payload) < 100 * KIB + 6 * KIB  # the inserted file is new, the rest nearly free
    assert {FrameKind.COPY, FrameKind.DIFF} <= set(built.frames)
    assert built.index.source_digest == Digest.of(image)


@pytest.mark.parametrize("source", [True, False], ids=["delta", "full"])
def test_same_bytes_whatever_the_jobs(tmp_path: Path, *, source: bool) -> None:
    image = _release()
    target = _next_release(image)
    held = image if source else None
    _, one = _build(tmp_path, held, target, jobs=1, profile="fast")
    _, three = _build(tmp_path, held, target, jobs=3, profile="fast")
    assert one == three


@pytest.mark.parametrize("profile", ["small", "balanced", "fast"])
def test_profiles(tmp_path: Path, profile: str) -> None:
    image = _release(size=2 * MIB)
    target = image[: MIB // 2] + b"changed" * 1000 + image[MIB // 2 :]
    built, payload = _build(tmp_path, image, target, profile=profile)
    assert len(payload) < 4096
    assert built.index.memory_bytes < 20 * MIB


def test_every_phase_tells_its_progress_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    image = _release(size=2 * MIB)
    target = _next_release(_release(size=6 * MIB)) + gzip.compress(image, mtime=0)
    _build(tmp_path, image, target, on_progress=lambda *args: told.append(args))
    phases = list(dict.fromkeys(what for what, _, _ in told))
    assert phases == ["scan", "index target", "index source", "match", "encode"]
    for phase in phases:
        steps = [(done, total) for what, done, total in told if what == phase]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] > 0
    assert told[-1] == ("encode", len(target), len(target))


def test_reuse_gives_the_same_bytes(tmp_path: Path) -> None:
    image = _release(size=4 * MIB)
    target = bytearray(image)
    target[MIB : MIB + 10] = b"0123456789"
    _build(tmp_path, None, image)
    shutil.move(tmp_path / "payload", tmp_path / "earlier")
    _, alone = _build(tmp_path, None, bytes(target))
    _, again = _build(tmp_path, None, bytes(target), reuse=tmp_path / "earlier")
    assert alone == again


def test_reuse_of_another_level_changes_nothing(tmp_path: Path) -> None:
    text = b"".join(f"{n * n % 977} line {n}\n".encode() for n in range(20_000))
    _, fast = _build(tmp_path, None, text, profile="fast")
    shutil.move(tmp_path / "payload", tmp_path / "earlier")
    _, alone = _build(tmp_path, None, text, profile="small")
    _, again = _build(tmp_path, None, text, profile="small", reuse=tmp_path / "earlier")
    assert fast != alone
    assert alone == again


def test_reuse_takes_the_frames_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = _release(size=4 * MIB)
    _build(tmp_path, None, image, jobs=1)
    shutil.move(tmp_path / "payload", tmp_path / "earlier")
    encoded: list[int] = []

    def counting(target: bytes, offset: int, profile: object) -> object:
        encoded.append(len(target))
        return encode_full(target, offset, profile)

    from slipstream.server import pieces, reuse  # noqa: PLC0415

    encode_full = reuse.encode_full
    monkeypatch.setattr(reuse, "encode_full", counting)
    monkeypatch.setattr(pieces, "encode_full", counting)
    _build(tmp_path, None, image, jobs=1, reuse=tmp_path / "earlier")
    assert len(encoded) == 1  # the probe


def test_reuse_refuses_what_is_no_payload(tmp_path: Path) -> None:
    (tmp_path / "earlier").write_bytes(_random(5000))
    with pytest.raises(FormatError):
        _build(tmp_path, None, _release(size=MIB), reuse=tmp_path / "earlier")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("phase", ["scan", "encode"])
def test_failure_leaves_nothing(tmp_path: Path, jobs: int, phase: str) -> None:
    (tmp_path / "target").write_bytes(_release())
    (tmp_path / "payload").write_bytes(b"what was there")
    error = OSError if phase == "encode" else KeyboardInterrupt

    def stop(what: str, done: int, _total: int) -> None:
        if done and what == phase:
            raise error

    with pytest.raises(error):
        build_payload(
            None,
            tmp_path / "target",
            tmp_path / "payload",
            jobs=jobs,
            memory_bytes=MEMORY,
            profile="fast",
            on_progress=stop,
        )
    assert (tmp_path / "payload").read_bytes() == b"what was there"
    assert _names(tmp_path) == ["payload", "target"]


def test_usage_errors(tmp_path: Path) -> None:
    target, output = tmp_path / "target", tmp_path / "payload"
    target.write_bytes(b"x")
    with pytest.raises(UsageError, match="unknown profile"):
        build_payload(None, target, output, memory_bytes=MEMORY, profile="huge")
    with pytest.raises(UsageError, match="too little memory"):
        build_payload(None, target, output, memory_bytes=MIB)
    with pytest.raises(UsageError, match="neither"):
        build_payload(Path("/dev/null"), target, output, memory_bytes=MEMORY)
    with pytest.raises(FileNotFoundError):
        build_payload(None, tmp_path / "missing", output, memory_bytes=MEMORY)
    assert _names(tmp_path) == ["target"]


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A block device over a file of 1 MiB, where this machine allows one."""
    backing = tmp_path / "backing"
    backing.write_bytes(_release(5, MIB))
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    found = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
    device = Path(found.stdout.strip())
    yield device, backing
    subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_block_devices(tmp_path: Path, loop_device: tuple[Path, Path]) -> None:
    device, backing = loop_device
    source, target = backing.read_bytes(), _release(6, MIB)
    (tmp_path / "target").write_bytes(target)
    payload = tmp_path / "payload"
    build_payload(device, tmp_path / "target", payload, memory_bytes=MEMORY)
    apply_payload(device, payload, tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == target
    back = tmp_path / "back"
    build_payload(tmp_path / "target", device, back, memory_bytes=MEMORY)
    apply_payload(tmp_path / "target", back, tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == source
    # in place, and onto a device larger than the image
    (tmp_path / "short").write_bytes(target[:-5000])
    build_payload(None, tmp_path / "short", payload, memory_bytes=MEMORY)
    apply_payload(None, payload, device)
    assert backing.read_bytes()[: MIB - 5000] == target[:-5000]


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    source, target, link = tmp_path / "source", tmp_path / "target", tmp_path / "link"
    source.write_bytes(b"one")
    target.write_bytes(b"two")
    os.link(target, link)
    for given, output in ((None, target), (None, link), (source, source), (source, target)):
        with pytest.raises(UsageError, match="output is also an input"):
            build_payload(given, target, output, memory_bytes=MEMORY)
    assert (source.read_bytes(), target.read_bytes()) == (b"one", b"two")


def test_an_output_that_is_no_file_is_refused(tmp_path: Path) -> None:
    target, pipe = tmp_path / "target", tmp_path / "pipe"
    target.write_bytes(b"two")
    os.mkfifo(pipe)
    for output in (pipe, Path("/dev/null"), tmp_path):
        with pytest.raises(UsageError, match="output is not a regular file"):
            build_payload(None, target, output, memory_bytes=MEMORY)
    with pytest.raises(UsageError, match=r"the folder .*nowhere does not exist"):
        build_payload(None, target, tmp_path / "nowhere" / "made", memory_bytes=MEMORY)
    assert pipe.is_fifo()


def test_a_device_is_no_output_and_not_both_ends(
    tmp_path: Path, loop_device: tuple[Path, Path]
) -> None:
    device, image = loop_device
    payload = tmp_path / "payload"
    with pytest.raises(UsageError, match="output is not a regular file"):
        build_payload(None, image, device, memory_bytes=MEMORY)
    build_payload(device, image, payload, memory_bytes=MEMORY)
    with pytest.raises(UsageError, match="output is also an input"):
        apply_payload(device, payload, device)
    assert device.is_block_device()


# Says the ids of the workers once frames are encoded, then waits for a signal.
_BUILD_LONG = """
import multiprocessing, signal, sys
from pathlib import Path
from slipstream.server.build import build_payload

def told(what, done, total):
    if done and what == "encode":
        print(*[one.pid for one in multiprocessing.active_children()], flush=True)
        signal.pause()

if __name__ == "__main__":
    # Whoever started the tests in the background of a shell has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target, output = map(Path, sys.argv[1:])
    build_payload(
        None, target, output, jobs=2, memory_bytes=96 << 20, profile="fast", on_progress=told
    )
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_build(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "target").write_bytes(_random(6 * MIB))
    (tmp_path / "build.py").write_text(_BUILD_LONG)
    words = [sys.executable, *(str(tmp_path / name) for name in ("build.py", "target", "payload"))]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as build:
        assert build.stdout is not None
        pids = [int(word) for word in build.stdout.readline().split()]
        ends = [os.pidfd_open(pid) for pid in pids]
        began = time.monotonic()
        build.send_signal(number)
        try:
            build.wait(5)
        finally:
            build.kill()
    try:
        assert len(ends) == 2
        for end in ends:  # a pidfd is readable when its process has ended
            assert select.select([end], [], [], 5)[0]
        assert time.monotonic() - began < 5
    finally:
        for end in ends:
            os.close(end)
    assert not (tmp_path / "payload").exists()
