"""Long blocking work in a thread, which ends soon when its caller is cancelled.

A thread cannot be cancelled. Left alone it would read or write on, through descriptors that its
caller has closed by then, beside the next attempt; and a program that ends would wait for it. So
the work asks `go_on` now and then, and the caller leaves only after the thread has.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

GoOn = Callable[[], None]


def unasked() -> None:
    """For work that nobody can stop."""


class Stopped(Exception):
    """Nobody waits for this work any more."""


async def in_thread(work: Callable[[GoOn], _T]) -> _T:
    """What `work` gives; its argument raises Stopped in the thread once this is cancelled.

    A cancelled call raises CancelledError after the thread has ended, however it did.
    """
    cancelled = threading.Event()

    def go_on() -> None:
        if cancelled.is_set():
            raise Stopped

    future = asyncio.get_running_loop().run_in_executor(None, work, go_on)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled.set()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # told twice: the thread still has to end
        if not future.cancelled():
            future.exception()  # heard; nobody waits for it
        raise
