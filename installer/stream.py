"""The pipeline that makes one image stand in a slot: scan, fetch, decode, verify, write, read back.

Three things overlap: the link fills the spool (frames.py), a thread decodes a frame, another
checks and writes the frame before it. What is held is bounded by memory, not by count: at most
two decoded frames, each with its sources, within what the plan allowed.

Nothing unverified reaches the slot: every chunk is checked against the signed tree before it is
written. A delta that makes wrong chunks (its source drifted, or the medium under the source
fails) loses nothing: those chunks alone come from the full payload.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.delta.decode import ChunkAssembler, decode_frame
from slipstream.delta.errors import DeviceFault, DigestMismatch, FormatError
from slipstream.delta.frame import Frame
from slipstream.delta.layout import payload_blob
from slipstream.delta.limits import (
    CHECKPOINT_TARGET_BYTES,
    CHUNK_BYTES,
    DRIFTED_FRAMES_MAX,
    MEDIA_ATTEMPTS_MAX,
)
from slipstream.delta.payload import Index
from slipstream.delta.tree import ChunkList
from slipstream.installer.frames import FrameSource
from slipstream.installer.journal import Checkpoint, Journal
from slipstream.installer.ports import Fetcher, SlotTarget
from slipstream.installer.scan import missing_chunks, padded_size, wrong_chunks
from slipstream.installer.spool import Spool

Say = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Counts:
    """What an install cost, summed over its images. Bytes, but for the chunk counts."""

    bytes_fetched: int = 0
    bytes_refetched: int = 0
    bytes_reused: int = 0
    bytes_written: int = 0
    chunks: int = 0
    chunks_standing: int = 0


@dataclass(frozen=True, slots=True)
class Payloads:
    """What can make the image. `delta` with its open source, or None; `full` fetches on demand."""

    delta: tuple[Index, SlotTarget] | None
    full: Callable[[], Awaitable[Index]]


@dataclass(slots=True)
class ImageWriter:
    """Makes one image stand in its place. `run` is the whole of it.

    `say` gets words for people; `on_progress` a stage, bytes done and bytes in all.
    """

    name: str
    transaction: str
    target: SlotTarget
    chunks: ChunkList
    payloads: Payloads
    fetcher: Fetcher
    journal: Journal
    spool: Path
    say: Say
    on_progress: OnProgress
    counts: Counts = field(default_factory=Counts)

    async def run(self) -> None:
        """Scan, write what is missing, read back. Raises Rejected, Unavailable, DeviceFault."""
        missing = await self._missing()
        self.counts.chunks += self.chunks.count
        self.counts.chunks_standing += self.chunks.count - len(missing)
        for _ in range(MEDIA_ATTEMPTS_MAX):
            await self._write(missing)
            missing = await self._wrong()
            if not missing:
                return
            self.say(f"{self.name}: {len(missing)} chunks were not as written when read back")
        raise DeviceFault(
            "the medium does not keep what is written to it",
            where=self.target.name,
            got=f"{len(missing)} wrong chunks after {MEDIA_ATTEMPTS_MAX} attempts,"
            f" the first at byte {missing[0] * CHUNK_BYTES}",
            hint="Replace the storage; the running slot is not touched",
        )

    async def _missing(self) -> list[int]:
        def blocking() -> list[int]:
            return missing_chunks(self.target, self.chunks, self._progress("scan"))

        return await asyncio.to_thread(blocking)

    async def _wrong(self) -> list[int]:
        def blocking() -> list[int]:
            return wrong_chunks(self.target, self.chunks, self._progress("read back"))

        return await asyncio.to_thread(blocking)

    def _progress(self, stage: str) -> Callable[[int], None]:
        size = self.chunks.tuple.image_size
        return lambda done: self.on_progress(stage, done, size)

    async def _write(self, missing: list[int]) -> None:
        """Write the missing chunks: from the delta, and what it cannot make from the full payload."""
        left = set(missing)
        if left and self.payloads.delta is not None:
            index, source = self.payloads.delta
            await self._stream(index, source, left)
            if left:
                self.say(
                    f"{self.name}: {len(left)} chunks could not be made from the running slot;"
                    " they come from the full payload"
                )
        if left:
            await self._stream(await self.payloads.full(), None, left)
        await asyncio.to_thread(self._finish_tail)

    def _finish_tail(self) -> None:
        """Zero the rest of the last block: the kernel checks whole blocks."""
        size = self.chunks.tuple.image_size
        end = padded_size(self.target, size)
        if end > size:
            self.counts.bytes_written += self.target.write(size, bytes(end - size))

    async def _stream(self, index: Index, source: SlotTarget | None, left: set[int]) -> None:
        """Run a payload; take every chunk that it wrote out of `left`.

        With a source, frames and chunks that come out wrong are left over; without one they
        are Rejected.
        """
        pipe = _Pipe(self, index, source, left)
        wanted = frames_of(index, left)
        spool = Spool(self.spool, index.digest)
        path = payload_blob(index.digest)
        async with FrameSource(self.fetcher, path, index, wanted, spool) as frames:
            try:
                await pipe.run(frames)
            finally:
                self.counts.bytes_fetched += frames.bytes_fetched + frames.bytes_read_over
                self.counts.bytes_refetched += frames.bytes_refetched
                self.counts.bytes_reused += frames.bytes_reused
        spool.discard()


class _Pipe:
    """One pass of a payload: decode in one thread while another checks and writes."""

    def __init__(
        self, job: ImageWriter, index: Index, source: SlotTarget | None, left: set[int]
    ) -> None:
        self._job = job
        self._index = index
        self._source = source
        self._left = left
        self._given_up: set[int] = set()
        self._assembler = self._new_assembler()
        self._drifted = 0
        self._since_checkpoint = 0

    async def run(self, frames: FrameSource) -> None:
        writing: asyncio.Future[None] | None = None
        last = -1
        try:
            async for number, encoded in frames:
                frame = self._index.frames[number]
                data = await asyncio.to_thread(self._decode, frame, encoded)
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(asyncio.to_thread(self._take, frame, data))
                last = number
                self._since_checkpoint += frame.target.size
                if self._since_checkpoint >= CHECKPOINT_TARGET_BYTES or frames.pressure:
                    await writing
                    frames.release(await asyncio.to_thread(self._checkpoint, number))
                if self._drifted > DRIFTED_FRAMES_MAX:
                    break
            if writing is not None:
                await writing
        finally:
            # However this ends, no thread may go on writing behind the caller's back.
            if writing is not None:
                await asyncio.wait([writing])
                if not writing.cancelled():
                    writing.exception()  # it was raised above, or something worse was
        if last >= 0:
            await asyncio.to_thread(self._checkpoint, last)

    def _new_assembler(self) -> ChunkAssembler:
        def wanted(index: int) -> bool:
            return index in self._left and index not in self._given_up

        return ChunkAssembler(self._index.target_size, wanted)

    def _decode(self, frame: Frame, encoded: bytes) -> bytes | None:
        """The frame's target bytes; None if the source does not give them."""
        try:
            return decode_frame(frame, encoded, self._read_sources(frame))
        except (DeviceFault, FormatError):
            if self._source is None:
                raise
            return None

    def _read_sources(self, frame: Frame) -> bytes:
        source = self._source
        if source is None or not frame.sources:
            return b""
        if len(frame.sources) == 1:
            return source.read(frame.sources[0].offset, frame.sources[0].size)
        return b"".join(source.read(one.offset, one.size) for one in frame.sources)

    def _take(self, frame: Frame, data: bytes | None) -> None:
        """Check and write the chunks that the frame completes."""
        if data is None:
            self._give_up(frame)
            return
        for index, chunk in self._assembler.feed(frame.target.offset, data):
            try:
                self._job.chunks.check(index, chunk)
            except DigestMismatch:
                if self._source is None:
                    raise
                self._given_up.add(index)
                self._drifted += 1
                continue
            written = self._job.target.write(index * CHUNK_BYTES, chunk)
            self._job.counts.bytes_written += written
            self._left.discard(index)
        self._job.on_progress("write", frame.target.end, self._index.target_size)

    def _give_up(self, frame: Frame) -> None:
        first, last = chunk_span(frame)
        self._given_up.update(range(first, last + 1))
        self._drifted += 1
        self._assembler = self._new_assembler()

    def _checkpoint(self, number: int) -> int:
        """Make what stands durable, then say so. The first frame that is still needed.

        Frames that reach into the chunk under way are needed until it is written.
        """
        self._job.target.sync()
        frames = self._index.frames
        done = frames[number].target.end
        if done < self._index.target_size:
            done -= done % CHUNK_BYTES
        needed = number + 1
        while needed and frames[needed - 1].target.end > done:
            needed -= 1
        job = self._job
        job.journal.checkpoint(Checkpoint(job.transaction, job.name, needed, done))
        self._since_checkpoint = 0
        return needed


def chunk_span(frame: Frame) -> tuple[int, int]:
    """First and last chunk that a frame touches."""
    return frame.target.offset // CHUNK_BYTES, (frame.target.end - 1) // CHUNK_BYTES


def frames_of(index: Index, chunks: set[int]) -> list[int]:
    """Numbers of the frames that touch one of the chunks, increasing."""
    flags = bytearray(-(-index.target_size // CHUNK_BYTES))
    for chunk in chunks:
        flags[chunk] = 1
    found = []
    for number, frame in enumerate(index.frames):
        first, last = chunk_span(frame)
        if flags.find(1, first, last + 1) >= 0:
            found.append(number)
    return found
