"""Fetching over HTTP: small files whole, payloads by range, through whatever the link does.

One transfer is a loop of attempts; each asks for what is still missing (Range, If-Range) and
never joins bytes of two versions of a file. Trusts nothing: digests are checked by the caller.
"""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import (
    READ_PIECE_BYTES,
    RETRY_ATTEMPTS_SPARE,
    RETRY_BYTES_PER_ATTEMPT,
    WHOLE_RESTARTS_MAX,
)
from slipstream.installer.backoff import Backoff
from slipstream.installer.link import Counters, Link, Reply, TooSlow
from slipstream.installer.ports import Clock
from slipstream.installer.response import (
    Changed,
    Extent,
    Interrupted,
    NotFound,
    Remote,
    Unusable,
    Wanted,
    WrongSize,
)
from slipstream.installer.response import judge as judge_response

__all__ = ["Changed", "Counters", "HttpFetcher", "NotFound", "Unusable"]


@dataclass(slots=True)
class _Transfer:
    """A range of a file on its way; an `end` of None is the file's own end.

    `position` is the next byte that the caller needs, `furthest` the highest it ever was:
    a server that is cut at the same byte each time makes no progress.
    """

    path: str
    position: int
    end: int | None
    furthest: int
    size: int | None = None
    size_max: int | None = None
    seen: Remote | None = None
    whole_restarts: int = 0

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.position, self.end, self.seen, self.size, self.size_max)

    def restart(self) -> None:
        """Forget what came so far: the next attempt starts at the file's first byte."""
        self.position, self.seen = 0, None


@dataclass(slots=True)
class _Body:
    """An open response and how far it was read: `at` is a place in the file."""

    path: str
    reply: Reply
    extent: Extent
    at: int
    ended: bool = False

    async def read(self, size_max: int) -> bytes:
        """The next piece, empty at the end. Raises Interrupted when the body is cut."""
        piece = b"" if self.at == self.extent.end else await self.reply.read(size_max)
        self.at += len(piece)
        if self.at == self.extent.end or (not piece and self.extent.end is None):
            self.ended = True
        elif not piece:
            raise Interrupted(
                "the body ended early",
                where=self.reply.where,
                expected=self.extent.end,
                got=self.at,
            )
        return piece


class HttpFetcher:
    """The Fetcher port over HTTP. Use as an async context manager; one transfer at a time.

    `base_url` is the repository's public/ folder. `clock` and `chance` (floats in [0, 1)) are
    injected. `counters` tells what crossed the link.
    """

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        chance: Callable[[], float] = random.random,
        authorization: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._link = Link(base_url, clock=clock, authorization=authorization, ca_file=ca_file)
        self._clock = clock
        self._chance = chance
        # A whole file that a server without ranges is sending: the next range reads on in it.
        self._parked: _Body | None = None

    @property
    def counters(self) -> Counters:
        return self._link.counters

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; idempotent."""
        self._drop_parked()
        await self._link.close()

    async def fetch(self, path: str, *, size_max: int, size: int | None = None) -> bytes:
        """A whole file of at most `size_max` bytes, of exactly `size` bytes where it is known.

        Raises NotFound; Unusable when more came than it may have, or when the budget of attempts is
        spent on a file of a wrong size, or one that changed; Unavailable when it is spent otherwise,
        the server says that the file is too large, or wants a longer pause than we wait
        (`retry_after_s`); FormatError for a path that is not plain and relative.
        """
        if size is not None and size > size_max:
            raise Unavailable(
                "file too large", where=path, expected=f"at most {size_max}", got=size
            )
        transfer = _Transfer(path, 0, None, 0, size, size_max if size is None else size)
        backoff = self._backoff(size_max)
        data = bytearray()
        while True:
            try:
                async with aclosing(self._attempt(transfer)) as pieces:
                    async for piece in pieces:
                        data += piece
                return bytes(data)
            except (Interrupted, Changed) as failure:
                await self._pause(backoff, transfer, failure)
                # Only a validator lets us join the rest to what we have: these files do change.
                if transfer.seen is None or transfer.seen.validator is None:
                    transfer.restart()
                    data.clear()

    async def stream(self, path: str, rng: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of a range in order, in pieces of any size, all of them or an error.

        Raises as fetch(), and Changed when the file became another after the first bytes were
        handed out.
        """
        transfer = _Transfer(path, rng.offset, rng.end, rng.offset)
        backoff = self._backoff(rng.size)
        while transfer.position < rng.end:
            try:
                async with aclosing(self._attempt(transfer)) as pieces:
                    async for piece in pieces:
                        yield piece
            except Changed as failure:
                if transfer.position > rng.offset:
                    raise
                await self._pause(backoff, transfer, failure)
            except Interrupted as failure:
                await self._pause(backoff, transfer, failure)

    async def probe(self, path: str, *, size: int, at: int = 0) -> None:
        """One byte of the file, at `at`, to see that it is there and has `size` bytes.

        Of a server without ranges the rest of the file is kept coming, for a range behind `at`.
        Raises as fetch().
        """
        transfer = _Transfer(path, at, at + 1, at, size)
        backoff = self._backoff(1)
        while transfer.position == at:
            try:
                async with aclosing(self._attempt(transfer)) as pieces:
                    async for _ in pieces:
                        pass
            except (Interrupted, Changed) as failure:
                await self._pause(backoff, transfer, failure)

    async def _attempt(self, transfer: _Transfer) -> AsyncGenerator[bytes, None]:
        """One response's worth: returns when the transfer is complete.

        Raises Interrupted or Changed when another attempt is needed.
        """
        body = await self._open(transfer)
        whole = False
        try:
            while transfer.end is None or transfer.position < transfer.end:
                limit = READ_PIECE_BYTES
                if body.at < transfer.position:
                    limit = min(limit, transfer.position - body.at)
                elif transfer.end is not None:
                    limit = min(limit, transfer.end - body.at)
                piece = await body.read(limit)
                if not piece:
                    break
                if body.at <= transfer.position:  # what a server without ranges sends unasked
                    self.counters.bytes_skipped += len(piece)
                    continue
                if transfer.size_max is not None and body.at > transfer.size_max:
                    raise Unusable(
                        "file too large",
                        where=body.reply.where,
                        expected=f"at most {transfer.size_max} bytes",
                    )
                transfer.position = body.at
                yield piece
            self._check_complete(transfer, body)
            whole = True
        finally:
            self._leave(body, whole=whole)

    async def _open(self, transfer: _Transfer) -> _Body:
        """The parked body where it leads to the wanted bytes, else a new response."""
        parked, self._parked = self._parked, None
        if parked is not None:
            leads_there = parked.path == transfer.path and parked.at <= transfer.position
            if leads_there and not (
                transfer.seen is not None and parked.extent.remote.contradicts(transfer.seen)
            ):
                transfer.seen = transfer.seen or parked.extent.remote
                return parked
            parked.reply.close()
        wanted = transfer.wanted
        reply = await self._link.get(transfer.path, wanted.headers)
        try:
            extent = judge_response(
                reply.where, reply.status, reply.headers, wanted, self._clock.now()
            )
            if extent.whole and wanted.start > 0:
                transfer.whole_restarts += 1
                if transfer.whole_restarts > WHOLE_RESTARTS_MAX:
                    raise Unavailable(
                        "the link is too bad for a server without ranges",
                        where=reply.where,
                        got=f"{WHOLE_RESTARTS_MAX} starts from the first byte",
                        hint="Serve the repository with a server that supports Range",
                    )
        except BaseException:
            reply.close()
            raise
        transfer.seen = transfer.seen or extent.remote
        return _Body(transfer.path, reply, extent, extent.start)

    def _check_complete(self, transfer: _Transfer, body: _Body) -> None:
        """The body is over or the range is: nothing may be missing."""
        where = body.reply.where
        end = transfer.end
        if end is None:
            end = body.extent.remote.size if transfer.size is None else transfer.size
        if end is None or transfer.position == end:
            return
        got = transfer.position
        if transfer.end is None and body.extent.remote.size in {None, got}:
            transfer.restart()
            raise WrongSize("file of a wrong size", where=where, expected=end, got=got)
        raise Interrupted("fewer bytes than asked for", where=where, expected=end, got=got)

    def _leave(self, body: _Body, *, whole: bool) -> None:
        """Give the connection back, keep it for the next range, or drop it."""
        if not whole:
            body.reply.close()
        elif body.ended:
            body.reply.finish()
        elif body.extent.whole:
            self._parked = body
        else:
            body.reply.close()

    async def _pause(self, backoff: Backoff, transfer: _Transfer, failure: Unavailable) -> None:
        """Wait before the next attempt, or raise what ended the transfer."""
        if isinstance(failure, Changed):
            transfer.seen = None
        if transfer.position > transfer.furthest and not isinstance(failure, TooSlow):
            transfer.furthest = transfer.position
            backoff.progressed()
        delay_s = backoff.next_delay_s(failure.retry_after_s)
        if delay_s is None:
            kind = Unusable if isinstance(failure, WrongSize | Changed) else Unavailable
            raise kind(
                failure.what,
                where=failure.where,
                expected=failure.expected,
                got=failure.got,
                hint=failure.hint or f"Gave up after {backoff.failed} failed attempts",
                retry_after_s=failure.retry_after_s,
            ) from failure
        self.counters.retries += 1
        await self._clock.sleep(delay_s)

    def _backoff(self, size: int) -> Backoff:
        return Backoff(
            self._chance, total_max=RETRY_ATTEMPTS_SPARE + size // RETRY_BYTES_PER_ATTEMPT
        )

    def _drop_parked(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.reply.close()
