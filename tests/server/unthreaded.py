"""SQLite without a thread beside the event loop: what a test of thousands of transactions waits for.

aiosqlite hands every call to a thread and back, which takes most of the time of a short transaction.
Here the same calls run at once. A lock is waited for by letting others run.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import aiosqlite


class _Loop:
    """In the place of aiosqlite's queue: what is put in runs as soon as the loop comes to it."""

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        asyncio.get_running_loop().call_soon(self._run, *item)

    def _run(self, future: asyncio.Future[Any] | None, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except BaseException as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                asyncio.get_running_loop().call_soon(self._run, future, call)
            elif future is not None and not future.done():
                future.set_exception(error)
        else:
            if isinstance(result, sqlite3.Connection):
                result.execute("PRAGMA busy_timeout=0")  # it would wait for itself
            if future is not None and not future.done():
                future.set_result(result)


@contextmanager
def unthreaded() -> Iterator[None]:
    """All connections of aiosqlite that are opened inside run on the loop."""
    begin = aiosqlite.Connection.__init__

    def init(self: Any, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        self._tx = _Loop()
        self._thread = SimpleNamespace(start=lambda: None, daemon=True)

    with patch.object(aiosqlite.Connection, "__init__", init):
        yield
