"""A digest taken in a thread beside the one that makes the bytes (build machine)."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from slipstream.delta.digest import Digest


class DigestBeside:
    """SHA-256 of bytes handed over one piece after the other: while one is hashed, the next is made.

    Holds one piece beside the caller's. Pieces must not change once they are handed over.
    """

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self._executor = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def update(self, data: bytes) -> None:
        """Take the next piece, once the one before is done."""
        self._wait()
        self._under_way = self._executor.submit(self._state.update, data)

    def result(self) -> Digest:
        """Of all that was handed over."""
        self._wait()
        return Digest(self._state.digest())

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
