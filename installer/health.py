"""Health: the commands that a release must pass before it is confirmed.

A check is a command, its name and a time limit (config.py, [[health]]). It passes when it exits 0
in time. Its output is kept, bounded, because it is what tells a person why a release fell back.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.delta.limits import HEALTH_OUTPUT_BYTES_MAX
from slipstream.installer.config import HealthCheck

_READ_BYTES = 16 * 1024
_REASON_CHARS = 200  # of the output, in the reason: one line of a report
_DRAIN_S = 1.0  # for output that is still on its way when the command has ended


@dataclass(frozen=True, slots=True)
class HealthResult:
    """How one check went. `exit_code` is None if it did not end by itself."""

    name: str
    passed: bool
    reason: str
    output: str
    exit_code: int | None


async def run_health(checks: Sequence[HealthCheck]) -> tuple[HealthResult, ...]:
    """Run all checks, one after the other: a failure does not hide the next one.

    Never raises for what a command does. When cancelled, the running command is killed.
    """
    return tuple([await run_check(check) for check in checks])


def reason_of(results: Sequence[HealthResult]) -> str | None:
    """Why the release is not healthy, in one line; None if it is."""
    return "; ".join(result.reason for result in results if not result.passed) or None


async def run_check(check: HealthCheck) -> HealthResult:
    """Run one check in a process group of its own, so that nothing of it outlives its time."""
    try:
        process = await asyncio.create_subprocess_exec(
            *check.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return _result(check, f"could not be started: {error}", b"", None)
    tail = bytearray()
    reader = asyncio.create_task(_keep_tail(process.stdout, tail))
    try:
        async with asyncio.timeout(check.timeout_s):
            code = await process.wait()
    except TimeoutError:
        _kill_group(process)
        await process.wait()
        await _drain(reader)
        return _result(check, f"took longer than {check.timeout_s:g} s", bytes(tail), None)
    except asyncio.CancelledError:
        _kill_group(process)
        await process.wait()
        reader.cancel()
        raise
    await _drain(reader)
    if code == 0:
        return HealthResult(check.name, True, "", tail.decode("utf-8", "replace"), 0)
    how = f"exited with {code}" if code > 0 else f"was killed by {_signal_name(-code)}"
    return _result(check, how, bytes(tail), code)


def _result(check: HealthCheck, how: str, output: bytes, code: int | None) -> HealthResult:
    text = output.decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = "".join(char for char in lines[-1] if char.isprintable()) if lines else ""
    reason = f"health check {check.name} {how}" + (f": {last[:_REASON_CHARS]}" if last else "")
    return HealthResult(check.name, False, reason, text, code)


async def _keep_tail(stream: asyncio.StreamReader | None, tail: bytearray) -> None:
    """Read to the end; keep the last bytes. The command never blocks on a full pipe."""
    while stream is not None and (piece := await stream.read(_READ_BYTES)):
        tail += piece
        del tail[:-HEALTH_OUTPUT_BYTES_MAX]


async def _drain(reader: asyncio.Task[None]) -> None:
    """A background process that left the group may hold the pipe open: do not wait for it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            await reader


def _kill_group(process: asyncio.subprocess.Process) -> None:
    # The leader was not waited for, so the group's number cannot have been given to another.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
