"""Blocking work in a thread: its result, its errors, and that cancelling ends it."""

import asyncio
import threading
import time

import pytest

from slipstream.delta.errors import DeviceFault
from slipstream.installer.blocking import GoOn, in_thread

LIMIT_S = 10.0


def test_result_and_error() -> None:
    def fail(_: GoOn) -> int:
        raise DeviceFault("broken")

    assert asyncio.run(in_thread(lambda _: 5)) == 5
    with pytest.raises(DeviceFault, match="broken"):
        asyncio.run(in_thread(fail))


@pytest.mark.parametrize("cancels", [1, 3])
def test_cancelling_ends_the_thread_before_it_returns(cancels: int) -> None:
    began, ended = threading.Event(), threading.Event()

    def work(go_on: GoOn) -> None:
        began.set()
        try:
            for _ in range(int(LIMIT_S * 1000)):
                go_on()
                time.sleep(0.001)
        finally:
            time.sleep(0.02)  # what was begun is finished first
            ended.set()

    async def main() -> None:
        task = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(began.wait, LIMIT_S)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < LIMIT_S / 2


def test_work_that_ended_meanwhile_is_not_an_unheard_error() -> None:
    """An exception nobody fetches is written to the log by asyncio: warnings are errors here."""

    async def main() -> None:
        began = threading.Event()

        def work(_: GoOn) -> None:
            began.set()
            time.sleep(0.02)
            raise DeviceFault("late")

        task = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(began.wait, LIMIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
