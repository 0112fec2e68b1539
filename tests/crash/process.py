"""One install by the real program, `slipstream device install`: seen by strace, and by the recorder.

The program runs twice on equal devices: as a process of its own under strace, and in this process
between the recorder's functions. Both have real threads, real HTTP, and the same clock.
"""

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from slipstream.cli.device import device
from tests.crash.machine import Machine, Snapshot
from tests.crash.record import SYNCS, Kind, Medium, Op
from tests.crash.repository import Repository
from tests.crash.story import LAYOUTS, Replay, lazily, repositories, rest_after
from tests.crash.trace import STRACE, parse_trace
from tests.installer import lab
from tests.installer.hostile_server import HostileServer

RUN_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Install:
    """What was recorded of an install, where it began, and what stood at its end."""

    log: tuple[Op, ...]
    begin: Snapshot
    end: Snapshot

    def replayed(self) -> Snapshot:
        """What the models make of the log."""
        replay = Replay(self.begin, lazily)
        for op in self.log:
            replay.apply(op)
        return replay.now()

    def durable_steps(self) -> list[str]:
        """What was made durable, and every change of a name, in order.

        The bytes of a state file may differ, times are in them; so may the moment at which a thread
        wrote what another one synced.
        """
        changes = (Kind.WRITE, Kind.TRUNCATE, Kind.FETCHED)
        return [str(op).partition(" (")[0] for op in self.log if op.kind not in changes]

    def written(self) -> dict[str, bytes]:
        """What was written to the slots and the ESP, file by file, in order."""
        found: dict[str, bytes] = {}
        for op in self.log:
            if op.kind is Kind.WRITE and op.medium is not Medium.STATE:
                name = f"{op.medium}:{op.path}"
                found[name] = found.get(name, b"") + b"%d:" % op.offset + op.data
        return found


@dataclass(frozen=True, slots=True)
class Watched:
    """What comparing the two came to."""

    operations: int
    syncs: int
    agree: bool

    @classmethod
    def of(cls, by_strace: Install, by_recorder: Install) -> "Watched":
        ends = [(one.replayed(), one.end) for one in (by_strace, by_recorder)]
        agree = (
            by_strace.durable_steps() == by_recorder.durable_steps()
            and by_strace.written() == by_recorder.written()
            and all(replayed == end for replayed, end in ends)
        )
        syncs = sum(op.kind in SYNCS for op in by_strace.log)
        return cls(len(by_strace.log), syncs, agree)

    def __str__(self) -> str:
        word = "the same" if self.agree else "NOT THE SAME"
        return (
            f"`slipstream device install` under strace: {self.operations} operations, {self.syncs} of "
            f"them syncs; {word} as the recorder has, and as what stood at the end"
        )


def install_twice(folder: Path) -> tuple[Install, Install]:
    """By strace, and by the recorder."""
    with patch.object(lab, "START", datetime.now(UTC).replace(microsecond=0)):
        one, two, full, unused = repositories()
    try:
        begin = rest_after(folder, next(iter(LAYOUTS)), one, two)
        with _server(full) as url:
            return _by_strace(folder, full, begin, url), _by_recorder(folder, full, begin, url)
    finally:
        for repository in (one, two, full, unused):
            repository.close()


def _by_strace(folder: Path, repository: Repository, begin: Snapshot, url: str) -> Install:
    machine = _machine(folder, repository, begin, url)
    before = {
        (medium, str(path.relative_to(base))): 0 if path.is_dir() else path.stat().st_size
        for medium, base in ((Medium.ESP, folder / "esp"), (Medium.STATE, folder / "state"))
        for path in base.rglob("*")
    } | {(Medium.SLOT, name): len(data) for name, data in begin.slots.items()}
    trace = folder / "trace"
    command = (sys.executable, "-m", "slipstream", "device", "install", "--config")
    subprocess.run(
        [*STRACE, "-o", trace, *command, folder / "device.toml"],
        check=True, capture_output=True, timeout=RUN_S_MAX,
    )  # fmt: skip
    log = parse_trace(trace.read_text("ascii"), folder, before)
    return _ended(machine, log, begin)


def _by_recorder(folder: Path, repository: Repository, begin: Snapshot, url: str) -> Install:
    machine = _machine(folder, repository, begin, url)
    with machine.recorder.installed():
        arguments = ["install", "--config", str(folder / "device.toml")]
        result = CliRunner().invoke(device, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return _ended(machine, machine.log, begin)


def _machine(folder: Path, repository: Repository, begin: Snapshot, url: str) -> Machine:
    """A device that runs release 2, with the server's address in its configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    machine = Machine(folder, repository, begin)
    machine.power_on()
    config = folder / "device.toml"
    text = config.read_text().replace('token_file = "token"\n', "")  # a static repository
    config.write_text(text.replace("http://127.0.0.1:1/", url))
    return machine


def _ended(machine: Machine, log: list[Op], begin: Snapshot) -> Install:
    for op in log:
        if op.medium is Medium.ESP and not machine.log:
            machine.vfat.apply(op)
    return Install(tuple(log), begin, machine.now())


@contextmanager
def _server(repository: Repository) -> Iterator[str]:
    """The repository over HTTP, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = HostileServer(repository.files)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(RUN_S_MAX)
        yield server.url
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(RUN_S_MAX)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
