"""Run one command of the device's configuration: with a time limit, and nothing left behind."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence


async def run_command(
    command: Sequence[str], timeout_s: float, *, output: int | None = None
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
