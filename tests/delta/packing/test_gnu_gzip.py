"""GNU gzip as a process: no deadlock, no process left, no silence when it dies."""

import gzip
import os
import random
import signal
from pathlib import Path

import pytest

from slipstream.delta.errors import PackingUnavailable
from slipstream.delta.packing.gnu_gzip import GnuGzip, GzipProcess, find_gnu_gzip
from tests.delta.packing.samples import run

NOISE = random.Random(5).randbytes(3_000_000)  # longer than all pipes, and so is what it packs to


def found() -> GnuGzip:
    gnu = find_gnu_gzip()
    assert gnu is not None
    return gnu


def children() -> set[str]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


def test_all_goes_through_at_once() -> None:
    process = GzipProcess(found(), 1)
    made = process.feed(NOISE) + process.finish(b"end")
    process.close()
    assert gzip.decompress(made) == NOISE + b"end"


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    plain = run("gzip", "-n", "-9", given=text)
    monkeypatch.setenv("GZIP", "--rsyncable")
    assert run("gzip", "-n", "-9", given=text) != plain
    process = GzipProcess(found(), 9)
    made = process.feed(text) + process.finish(b"")
    process.close()
    assert made == plain


@pytest.mark.parametrize("fed", [0, 10, 3_000_000])
def test_no_process_is_left(fed: int) -> None:
    before = children()
    process = GzipProcess(found(), 1)
    assert len(children() - before) == 1
    process.feed(NOISE[:fed])
    process.close()
    process.close()
    assert children() == before


def test_a_process_that_dies_is_an_error() -> None:
    before = children()
    process = GzipProcess(found(), 1)
    (number,) = children() - before
    os.kill(int(number), signal.SIGKILL)
    with pytest.raises(PackingUnavailable, match="before its time"):
        process.feed(NOISE + NOISE)
    process.close()
    assert children() == before


def test_a_process_that_dies_at_the_end_is_an_error(tmp_path: Path) -> None:
    command = tmp_path / "gzip"
    command.write_text("#!/bin/sh\ncat >/dev/null\nexit 3\n")
    command.chmod(0o755)
    process = GzipProcess(GnuGzip(str(command), "1.12"), 1)
    with pytest.raises(PackingUnavailable, match="before its time") as caught:
        process.finish(NOISE)
    process.close()
    assert caught.value.got == "exit 3"


def test_a_command_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackingUnavailable, match="does not start"):
        GzipProcess(GnuGzip(str(tmp_path / "gzip"), "1.12"), 1)
