"""Server-sent events: the answer that a page or a device keeps open, and what is written into it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf

from aiohttp import web

from slipstream.delta.limits import LIVE_WRITE_TIMEOUT_S


async def send_events(
    request: web.Request,
    first: bytes,
    woken: asyncio.Event,
    take: Callable[[], bytes | None],
    *,
    keepalive_s: float,
    ends_at: float = inf,
) -> web.StreamResponse:
    """Write `first`, then what `take` gives whenever it is `woken`, and at least every `keepalive_s`.

    Until the reader is gone, `take` gives None, or `ends_at` on the event loop's clock is over.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would hold the lines back
        }
    )
    clock = asyncio.get_running_loop().time
    with suppress(ConnectionError, TimeoutError):
        await response.prepare(request)
        await response.write(first)
        while clock() < ends_at:
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), keepalive_s)
            if (lines := take()) is None:
                break
            async with asyncio.timeout(LIVE_WRITE_TIMEOUT_S):
                await response.write(lines)
    return response
