"""Frames of a payload, fetched ahead through the spool, checked, and handed over in order.

One task fetches, the consumer takes; the spool lies between them and outlives both. A frame is
announced when its digest is right and its bytes are durable. Decodes nothing.
"""

import asyncio
import hashlib
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError
from slipstream.delta.limits import (
    FRAME_FETCHES_MAX,
    FRAMES_MAX,
    READ_OVER_BYTES_MAX,
    RETRY_ATTEMPTS_MAX,
    SPOOL_BYTES_MAX,
)
from slipstream.delta.payload import Frame, Index
from slipstream.installer.ports import Fetcher
from slipstream.installer.response import Changed
from slipstream.installer.spool import Spool

_FRAMES_AT_ONCE = 64  # about what the frame table decodes at once


@dataclass(frozen=True, slots=True)
class Run:
    """Frames that one request fetches: their numbers in order, and the span within the body."""

    frames: tuple[int, ...]
    span: ByteRange


def plan_runs(frames: Sequence[Frame], missing: Sequence[int]) -> tuple[Run, ...]:
    """Group frame numbers, increasing, into requests.

    Neighbours are fetched together; so are frames that are nearer to each other than a request
    costs. Frames without encoded bytes need no request and are left out.
    """
    runs: list[Run] = []
    numbers: list[int] = []
    for number in missing:
        encoded = frames[number].encoded
        if not encoded.size:
            continue
        if numbers and encoded.offset - frames[numbers[-1]].encoded.end > READ_OVER_BYTES_MAX:
            runs.append(_run(frames, numbers))
            numbers = []
        numbers.append(number)
    if numbers:
        runs.append(_run(frames, numbers))
    return tuple(runs)


def _run(frames: Sequence[Frame], numbers: list[int]) -> Run:
    start = frames[numbers[0]].encoded.offset
    return Run(tuple(numbers), ByteRange(start, frames[numbers[-1]].encoded.end - start))


class FrameSource:
    """Iterate `(frame number, encoded bytes)` for the wanted frames, which must increase.

        async with FrameSource(fetcher, path, index, wanted, spool) as source:
            async for number, encoded in source:
                ...
                source.release(first_frame_still_needed)   # at each checkpoint
                source.leave_out(frames_that_are_of_no_use)

    Frames without encoded bytes come too, with b"", and so do those left out. A frame that stays
    wrong comes with None where it `may_lose` one, and is in `lost`. Memory: one frame, and the
    pieces of the link. The spool holds at most `spool_bytes_max`, but for the one frame that a
    consumer with nothing left to take always gets: so a consumer that needs more frames before
    it can checkpoint does not wait for ever. `pressure` asks it to checkpoint and release.

    Raises Unavailable (the link's budget is spent; what came is kept), DigestMismatch (twice
    the wrong bytes of a frame that must not be lost), DeviceFault (the spool's disk). The frames
    before the error are handed over first.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        path: str,
        index: Index,
        wanted: Sequence[int],
        spool: Spool,
        *,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        may_lose: bool = False,
    ) -> None:
        if any(a >= b for a, b in pairwise(wanted)):
            raise FormatError("frames are wanted out of order", where=path)
        self._fetcher = fetcher
        self._path = path
        self._frames = index.frames
        self._body_offset = len(index.raw)
        self._wanted = tuple(wanted)
        self._spool = spool
        self._spool_bytes_max = spool_bytes_max
        self._may_lose = may_lose
        self.lost: dict[int, DigestMismatch] = {}  # frames that stayed wrong, and how
        self._left_out: set[int] = set()
        self._taken = 0  # how many of the wanted frames the consumer has
        self._ready = 0  # how many are in the spool, or need nothing
        self._starved = False
        self._left = False
        self._changed = asyncio.Event()  # one of the above, or the room in the spool
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self.bytes_fetched = 0  # encoded bytes of wanted frames, as they came
        self.bytes_refetched = 0  # of those, bytes that were here before and were thrown away
        self.bytes_read_over = 0  # of frames that are not wanted, between such that are
        self.bytes_reused = 0  # encoded bytes that an earlier process had left in the spool

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._produce())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes | None]]:
        return self

    async def __anext__(self) -> tuple[int, bytes | None]:
        if self._taken == len(self._wanted):
            raise StopAsyncIteration
        number = self._wanted[self._taken]
        while self._taken >= self._ready and number not in self._left_out:
            if self._failure is not None:
                raise self._failure
            self._starved = True
            self._notify()
            await self._change()
        self._starved = False
        encoded: bytes | None = None if number in self.lost else b""
        if self._frames[number].encoded.size and number not in self._left_out:
            encoded = await asyncio.to_thread(self._spool.read, number)
        self._taken += 1
        return number, encoded

    @property
    def pressure(self) -> bool:
        """Whether the spool is more than half full: a checkpoint and release() would help."""
        return self._spool.held_bytes > self._spool_bytes_max // 2

    def release(self, before_frame: int) -> None:
        """Frames below `before_frame` are not needed again, not even after a power cut.

        Without effect once the source is left: the spool may be another's by then.
        """
        if not self._left:
            self._spool.release(before_frame)
            self._notify()

    def leave_out(self, numbers: Iterable[int]) -> None:
        """These frames need not be fetched, as far as they are not here yet: they come with b""."""
        self._left_out.update(numbers)
        self._notify()

    async def _produce(self) -> None:
        try:
            await asyncio.to_thread(self._recheck)
            missing = [n for n in self._wanted if n not in self._spool]
            for run in plan_runs(self._frames, missing):
                self._announce(run.frames[0])
                await self._fetch_run(run)
            self._announce(FRAMES_MAX)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the consumer raises it, after the frames before it
            self._failure = error
        finally:
            self._notify()

    def _recheck(self) -> None:
        """Believe nothing that an earlier process left: check the digest of every frame."""
        wanted = set(self._wanted)
        for number in self._spool.frames:
            good = number < len(self._frames) and _is(
                self._frames[number], self._spool.read(number)
            )
            if not good:
                self._spool.drop(number)
            elif number in wanted:
                self.bytes_reused += self._frames[number].encoded.size
        tail = self._spool.tail
        if tail is not None:
            if tail.frame not in wanted or self._frames[tail.frame].encoded.size != tail.size:
                self._spool.drop_tail()
            else:
                self.bytes_reused += tail.have

    async def _fetch_run(self, run: Run) -> None:
        """Fetch all frames of a run, again from the first unfinished one where need be."""
        rest = list(run.frames)
        hurt: Counter[int] = Counter()  # wrong digests and changed files, by frame
        while rest := [number for number in rest if number not in self._left_out]:
            # All of it, unless a gap is left where frames were left out.
            todo = list(plan_runs(self._frames, rest)[0].frames)
            del rest[: len(todo)]
            number = todo[0]
            try:
                await self._fetch_frames(todo)
            except _LeftOut:
                if self._spool.tail is not None:
                    self._spool.drop_tail()
            except _WrongBytes as wrong:
                hurt[wrong.frame] += wrong.fresh
                if hurt[wrong.frame] >= FRAME_FETCHES_MAX:
                    if not self._may_lose:
                        raise wrong.mismatch from None
                    self.lost[wrong.frame] = wrong.mismatch
                    self.leave_out([wrong.frame])
            except Changed:
                # Bytes of two files are never joined, even though the digest would tell.
                self._throw_tail_away()
                hurt[-1] = hurt[-1] + 1 if todo[0] == number else 1
                if hurt[-1] >= RETRY_ATTEMPTS_MAX:
                    raise
            rest[:0] = todo

    async def _fetch_frames(self, todo: list[int]) -> None:
        """One stream over the frames of `todo`; each is removed from it when it is here."""
        tail = self._spool.tail
        if tail is not None and tail.frame != todo[0]:
            self._throw_tail_away()
            tail = None
        # The table keeps one stretch decoded; the consumer, further back, is in another.
        ahead = deque(self._frames[number] for number in todo[:_FRAMES_AT_ONCE])
        at = ahead[0].encoded.offset + (0 if tail is None else tail.have)
        span = ByteRange(self._body_offset + at, self._frames[todo[-1]].encoded.end - at)
        hasher = hashlib.sha256(self._spool.read_tail())
        fresh = False  # whether all bytes of the frame came through this stream
        stream = self._fetcher.stream(self._path, span)
        try:
            async for piece in stream:
                view = memoryview(piece)
                while view:
                    self._check_wanted(todo[0])
                    encoded = ahead[0].encoded
                    if at < encoded.offset:  # a gap that was cheaper to read over
                        skipped = min(encoded.offset - at, len(view))
                        at, view = at + skipped, view[skipped:]
                        self.bytes_read_over += skipped
                        continue
                    if at == encoded.offset:
                        await self._wait_for_room(encoded.size)
                        self._check_wanted(todo[0])
                        self._spool.begin(todo[0], encoded.size)
                        hasher, fresh = hashlib.sha256(), True
                    part = view[: encoded.end - at]
                    self._spool.append(part)
                    hasher.update(part)
                    self.bytes_fetched += len(part)
                    at, view = at + len(part), view[len(part) :]
                    if at == encoded.end:
                        got = Digest(hasher.digest())
                        await self._finish_frame(todo, ahead.popleft().digest, got, fresh=fresh)
                        if not ahead:
                            ahead.extend(self._frames[n] for n in todo[:_FRAMES_AT_ONCE])
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def _finish_frame(
        self, todo: list[int], expected: Digest | None, got: Digest, *, fresh: bool
    ) -> None:
        number = todo[0]
        if got != expected:
            self._throw_tail_away()
            raise _WrongBytes(
                number,
                DigestMismatch(
                    f"frame {number} is not what was signed",
                    where=self._path,
                    expected=expected,
                    got=got,
                    hint="The server or a proxy serves other bytes than were published",
                ),
                fresh=fresh,
            )
        await _to_the_end(self._spool.sync_tail)
        self._spool.finish()
        del todo[0]
        self._announce(todo[0] if todo else number + 1)

    def _throw_tail_away(self) -> None:
        if self._spool.tail is not None:
            self.bytes_refetched += self._spool.tail.have
            self._spool.drop_tail()

    async def _wait_for_room(self, size: int) -> None:
        while self._spool.held_bytes + size > self._spool_bytes_max:
            if self._starved and self._taken >= self._ready:
                return  # it has all there is and cannot checkpoint yet: only more frames help
            await self._change()

    def _check_wanted(self, number: int) -> None:
        if number in self._left_out:
            raise _LeftOut

    def _announce(self, before_frame: int) -> None:
        """All wanted frames below this one can be taken."""
        self._ready = max(self._ready, bisect_left(self._wanted, before_frame))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()


class _LeftOut(Exception):
    """The frame that comes is not wanted any more."""


class _WrongBytes(Exception):
    """A frame came whole and wrong. `fresh`: none of it was left over from before."""

    def __init__(self, frame: int, mismatch: DigestMismatch, *, fresh: bool) -> None:
        super().__init__(str(mismatch))
        self.frame = frame
        self.mismatch = mismatch
        self.fresh = fresh


def _is(frame: Frame, encoded: bytes) -> bool:
    return frame.encoded.size == len(encoded) and frame.digest == Digest.of(encoded)


async def _to_the_end(blocking: Callable[[], None]) -> None:
    """Run in a thread; even when cancelled, return only when the thread is done with the file."""
    work = asyncio.ensure_future(asyncio.to_thread(blocking))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
