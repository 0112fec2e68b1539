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
from slipstream.installer.command import run_command
from slipstream.installer.config import HealthCheck

_READ_BYTES = 16 * 1024
_OUTPUT_CHARS = 200  # of the last line of output, in the reason
_REASON_CHARS = 1000  # of all checks together: a report's reason has at most 1024
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
    reason = "; ".join(result.reason for result in results if not result.passed)
    return reason[:_REASON_CHARS] or None


async def run_check(check: HealthCheck) -> HealthResult:
    """Run one check. Never raises for what the command does."""
    # A pipe of our own: asyncio's process.wait() also waits for its pipes to close, and a daemon
    # that the command left behind may hold them open for ever.
    read_end, write_end = os.pipe()
    tail = bytearray()
    reader = asyncio.create_task(_keep_tail(read_end, tail))
    try:
        code = await run_command(check.command, check.timeout_s, output=write_end)
    except (OSError, ValueError) as error:
        return _result(check, f"could not be started: {error}", b"", None)
    finally:
        os.close(write_end)
        await _drain(reader)
    if code is None:
        return _result(check, f"took longer than {check.timeout_s:g} s", bytes(tail), None)
    if code == 0:
        return HealthResult(check.name, True, "", tail.decode("utf-8", "replace"), 0)
    how = f"exited with {code}" if code > 0 else f"was killed by {_signal_name(-code)}"
    return _result(check, how, bytes(tail), code)


def _result(check: HealthCheck, how: str, output: bytes, code: int | None) -> HealthResult:
    text = output.decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = "".join(char for char in lines[-1] if char.isprintable()) if lines else ""
    reason = f"health check {check.name} {how}" + (f": {last[:_OUTPUT_CHARS]}" if last else "")
    return HealthResult(check.name, False, reason, text, code)


async def _keep_tail(read_end: int, tail: bytearray) -> None:
    """Read to the end; keep the last bytes. The command never blocks on a full pipe."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read_end, "rb", 0)
    )
    try:
        while piece := await stream.read(_READ_BYTES):
            tail += piece
            del tail[:-HEALTH_OUTPUT_BYTES_MAX]
    finally:
        transport.close()


async def _drain(reader: asyncio.Task[None]) -> None:
    """Take what is still on its way, but do not wait for a daemon that holds the pipe."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            await reader


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
