"""The application in a thread beside the test, for clients that block."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp.test_utils import TestServer

from slipstream.server.app import Settings, make_app
from slipstream.server.store.database import Database


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of a server that runs until the end of the block."""
    started = threading.Event()
    found: list[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        app = make_app(settings, await Database.open(settings.database_url))
        async with TestServer(app) as server:
            found.append((str(server.make_url("/")), asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(60)
    url, loop, stop = found[0]
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
