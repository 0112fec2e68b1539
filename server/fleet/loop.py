"""What a server does again and again beside its answers: one loop that nothing ends but its owner.

Contract: whatever a step raises is logged and counted, and the next one comes, later each time
while it fails. `trouble` says when a loop has not got through for too long: /healthz asks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import LOOP_BACKOFF_S_MAX, LOOP_STALLED_S

_log: Any = structlog.get_logger(__name__)


@dataclass
class Loop:
    """Runs `step`, then waits `every_s` or until it is woken.

    `allowed_s`: how long it may go without a step that ends well before that is trouble; None for
    steps that take as long as they take, and that no device waits for.
    """

    name: str
    step: Callable[[], Awaitable[object]]
    every_s: float
    allowed_s: float | None = LOOP_STALLED_S
    spacing_s: float = 0.0  # after being woken: what wakes comes in crowds
    failures: int = 0  # since the start
    _in_a_row: int = 0
    _reason: str = ""  # of the last failure
    _well_at: float | None = None  # the loop's clock; None: it does not run
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Do not wait for the next step's time."""
        self._woken.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Loop"]:
        """Steps while inside."""
        self._well_at = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            self._well_at = None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def trouble(self) -> str | None:
        """Why the loop is not well, in words; None while it is."""
        if self.allowed_s is None or self._well_at is None:
            return None
        since = asyncio.get_running_loop().time() - self._well_at
        if since <= self.allowed_s:
            return None
        why = f": {self._reason}" if self._reason else ""
        return f"{self.name} has not got through for {since:.0f} s{why}"

    async def _run(self) -> None:
        while True:
            await self._wait()
            try:
                await self.step()
            except (SlipstreamError, sa.exc.IntegrityError) as error:
                self._fail(error)
                _log.error("a task failed", task=self.name, reason=str(error))
            except Exception as error:  # it must not end for what nobody foresaw
                self._fail(error)
                _log.exception("a task failed", task=self.name)
            else:
                self._in_a_row, self._reason = 0, ""
                self._well_at = asyncio.get_running_loop().time()

    async def _wait(self) -> None:
        if self._in_a_row:
            # Nothing shortens this: who wakes it is often who waits for what fails.
            await asyncio.sleep(min(self.every_s * 2**self._in_a_row, LOOP_BACKOFF_S_MAX))
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), self.every_s)
            await asyncio.sleep(self.spacing_s)
        self._woken.clear()

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        self._in_a_row = min(self._in_a_row + 1, 16)  # the power stays a small number
        self._reason = str(error) or type(error).__name__
