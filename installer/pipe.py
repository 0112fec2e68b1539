"""The pipe of an install: frames in, verified chunks out to the slot.

Three things overlap: the link fills the spool (frames.py), one thread decodes a frame, another
checks and writes the frame before it. What is held is bounded by memory, not by count: two coded
frames at most, each within what the plan allowed; copied and zero frames pass chunk by chunk.
Each thread is the same one throughout, because glibc keeps freed memory per thread.

Nothing unverified reaches the slot: every chunk is checked against the signed tree first.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from slipstream.delta.decode import ChunkAssembler, decode_frame
from slipstream.delta.errors import DeviceFault, DigestMismatch, FormatError
from slipstream.delta.frame import Frame, FrameKind
from slipstream.delta.limits import CHECKPOINT_TARGET_BYTES, CHUNK_BYTES, DRIFTED_FRAMES_MAX
from slipstream.delta.payload import Index
from slipstream.delta.tree import ChunkList
from slipstream.installer.frames import FrameSource
from slipstream.installer.ports import SlotTarget


@dataclass(frozen=True, slots=True)
class _Piece:
    """Target bytes; `data` is None where the source did not give them."""

    offset: int
    size: int
    data: bytes | None


@dataclass(slots=True)
class FramePipe:
    """One pass of a payload over a slot. Takes every chunk that it writes out of `left`.

    With a `source`, frames and chunks that come out wrong stay in `left`; without one they are
    Rejected. `on_checkpoint` gets the first frame still needed and the target bytes done, after
    these are durable.
    """

    index: Index
    source: SlotTarget | None
    target: SlotTarget
    chunks: ChunkList
    left: set[int]
    on_checkpoint: Callable[[int, int], None]
    on_progress: Callable[[int], None]
    bytes_written: int = 0
    _given_up: set[int] = field(default_factory=set)
    _drifted: int = 0
    _assembler: ChunkAssembler = field(init=False)

    def __post_init__(self) -> None:
        self._assembler = self._new_assembler()

    async def run(self, frames: FrameSource) -> None:
        """Write what the frames make. Raises Rejected, Unavailable, DeviceFault."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[int | None] | None = None
        last, since_checkpoint = -1, 0
        # Leaving waits for both threads: nothing goes on writing behind the caller's back.
        with ThreadPoolExecutor(1, "decode") as decoder, ThreadPoolExecutor(1, "write") as writer:
            async for number, encoded in frames:
                frame = self.index.frames[number]
                pieces = await loop.run_in_executor(decoder, self._decode, frame, encoded)
                if writing is not None:
                    await writing
                last, since_checkpoint = number, since_checkpoint + frame.target.size
                # The next frame is decoded while this one is made durable.
                due = since_checkpoint >= CHECKPOINT_TARGET_BYTES or frames.pressure
                since_checkpoint = 0 if due else since_checkpoint
                writing = loop.run_in_executor(writer, self._take, number, pieces, due)
                writing.add_done_callback(partial(_settled, frames))
                if self._drifted > DRIFTED_FRAMES_MAX:
                    break
            if writing is not None:
                await writing
                await loop.run_in_executor(writer, self._checkpoint, last)

    # --- in the decoding thread

    def _decode(self, frame: Frame, encoded: bytes) -> Iterable[_Piece]:
        """What the frame makes. Of frames that are not coded the writer takes piece by piece."""
        if frame.kind in (FrameKind.ZERO, FrameKind.COPY):
            return self._plain(frame)
        offset, size = frame.target.offset, frame.target.size
        try:
            return [_Piece(offset, size, decode_frame(frame, encoded, self._read_sources(frame)))]
        except (DeviceFault, FormatError):
            if self.source is None:
                raise
            return [_Piece(offset, size, None)]

    def _read_sources(self, frame: Frame) -> bytes:
        if self.source is None:
            return b""
        pieces = [self.source.read(one.offset, one.size) for one in frame.sources]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # --- in the writing thread

    def _plain(self, frame: Frame) -> Iterator[_Piece]:
        """A copied or zero frame, cut at chunks; those that are not wanted are not read."""
        spans: list[tuple[int | None, int]] = [(one.offset, one.size) for one in frame.sources]
        offset = frame.target.offset
        for start, size in spans or [(None, frame.target.size)]:
            done = 0
            while done < size:
                step = min(CHUNK_BYTES - offset % CHUNK_BYTES, size - done)
                if self._wanted(offset // CHUNK_BYTES):
                    at = None if start is None else start + done
                    yield _Piece(offset, step, self._plain_bytes(at, step))
                offset += step
                done += step

    def _plain_bytes(self, at: int | None, size: int) -> bytes | None:
        if at is None:
            return bytes(size)
        try:
            return None if self.source is None else self.source.read(at, size)
        except DeviceFault:
            return None

    def _take(self, number: int, pieces: Iterable[_Piece], checkpoint: bool) -> int | None:
        """Check and write the chunks that a frame's pieces complete.

        With `checkpoint`, make them durable: then the first frame that is still needed.
        """
        for piece in pieces:
            if piece.data is None:
                self._give_up(piece)
                continue
            for index, chunk in self._whole_chunks(piece.offset, piece.data):
                self._write(index, chunk)
        self.on_progress(self.index.frames[number].target.end)
        return self._checkpoint(number) if checkpoint else None

    def _whole_chunks(self, offset: int, data: bytes) -> Iterable[tuple[int, bytes]]:
        index, within = divmod(offset, CHUNK_BYTES)
        if not within and len(data) == self.chunks.tuple.chunk_range(index).size:
            return [(index, data)] if self._wanted(index) else []  # nothing to assemble or to copy
        return self._assembler.feed(offset, data)

    def _write(self, index: int, chunk: bytes) -> None:
        try:
            self.chunks.check(index, chunk)
        except DigestMismatch:
            if self.source is None:
                raise
            self._given_up.add(index)
            self._drifted += 1
            return
        self.bytes_written += self.target.write(index * CHUNK_BYTES, chunk)
        self.left.discard(index)

    def _give_up(self, piece: _Piece) -> None:
        end = piece.offset + piece.size
        self._given_up.update(range(piece.offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1))
        self._drifted += 1
        self._assembler = self._new_assembler()  # the one chunk it may have begun is given up too

    def _wanted(self, index: int) -> bool:
        return index in self.left and index not in self._given_up

    def _new_assembler(self) -> ChunkAssembler:
        return ChunkAssembler(self.index.target_size, self._wanted)

    def _checkpoint(self, number: int) -> int:
        """Make what stands durable, then say so. The first frame that is still needed.

        Frames that reach into the chunk under way are needed until it is written.
        """
        self.target.sync()
        frames = self.index.frames
        done = frames[number].target.end
        if done < self.index.target_size:
            done -= done % CHUNK_BYTES
        needed = number + 1
        while needed and frames[needed - 1].target.end > done:
            needed -= 1
        self.on_checkpoint(needed, done)
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


def _settled(frames: FrameSource, writing: "asyncio.Future[int | None]") -> None:
    """A frame is written: what a checkpoint made durable need not be kept.

    An error of the last write that something worse overtook is not an unheard one.
    """
    if writing.cancelled() or writing.exception() is not None:
        return
    needed = writing.result()
    if needed is not None:
        frames.release(needed)
