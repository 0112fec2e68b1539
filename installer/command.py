"""Run one command of the device's configuration: with a time limit, and nothing left behind."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipstream.delta.limits import HEALTH_OUTPUT_BYTES_MAX

_READ_BYTES = 16 * 1024
_LINE_CHARS = 200  # of the last line of output
_DRAIN_S = 1.0  # for output that is still on its way when the command has ended


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. `code` is None if it did not end by itself; `how` says it in words.

    `output` is the end of what it wrote.
    """

    code: int | None
    how: str
    output: str = ""

    @property
    def last_line(self) -> str:
        """The last line of output that is not empty, in printable characters."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        last = "".join(char for char in lines[-1] if char.isprintable()) if lines else ""
        return last[:_LINE_CHARS]


async def run_for_output(
    command: Sequence[str], timeout_s: float, variables: Mapping[str, str] | None = None
) -> CommandResult:
    """Run a command and keep what it says, bounded. Never raises for what the command does.

    `variables` are added to the environment.
    """
    # A pipe of our own: asyncio's process.wait() also waits for its pipes to close, and a daemon
    # that the command left behind may hold them open for ever.
    try:
        read_end, write_end = os.pipe()
    except OSError as error:  # too many open files
        return CommandResult(None, f"could not be started: {error}")
    tail = bytearray()
    reader = asyncio.create_task(_keep_tail(read_end, tail))
    try:
        code = await run_command(command, timeout_s, output=write_end, variables=variables)
    except (OSError, ValueError) as error:
        return CommandResult(None, f"could not be started: {error}")
    finally:
        os.close(write_end)
        await _drain(reader)
    output = tail.decode("utf-8", "replace")
    if code is None:
        return CommandResult(None, f"took longer than {timeout_s:g} s", output)
    how = f"exited with {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
    return CommandResult(code, how, output)


async def run_command(
    command: Sequence[str],
    timeout_s: float,
    *,
    output: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> int | None:
    """The exit code, negative for a signal; None if it took longer than `timeout_s` seconds.

    It runs in a process group of its own, which is killed at the limit and on cancellation.
    Its output goes to the descriptor `output`, or where ours goes. Raises OSError or ValueError
    if it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=None if variables is None else {**os.environ, **variables},
        start_new_session=True,
    )
    code: int | None
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
    except TimeoutError:
        code = None
    finally:
        # Unless it ended: the leader was not waited for, so the group's number is still its own.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await asyncio.sleep(0)  # the transport closes in the loop's next turn
    return code


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
