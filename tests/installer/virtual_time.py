"""An event loop whose time jumps: what waits an hour takes no time, and timeouts still fire.

When nothing is ready, time moves to the next timer. Loopback sockets of the same process are
ready as soon as the other end wrote, so nothing that is really under way is overtaken; work in
threads is counted and waited for.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

_T = TypeVar("_T")

_GRACE_S = 0.005  # real time for the kernel to hand over what was written on loopback
_LIMIT_S = 1e7  # virtual: a test that hangs ends with TimeoutError

START = datetime(2026, 1, 1, tzinfo=UTC)


class _JumpingSelector(selectors.DefaultSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None or self.loop.busy:
            return super().select(timeout)
        events = super().select(min(timeout, _GRACE_S))
        if not events:
            self.loop.jumped_s += max(0.0, timeout - _GRACE_S)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumped_s = 0.0
        self.busy = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self.jumped_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        self.busy += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self.busy -= 1


class LoopClock:
    """The Clock port on the running loop's time."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self._start = asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic() - self._start)

    def synchronised(self) -> bool:
        return False

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        await asyncio.sleep(seconds)


async def _limited(work: Coroutine[Any, Any, _T]) -> _T:
    async with asyncio.timeout(_LIMIT_S):
        return await work


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_limited(work))
