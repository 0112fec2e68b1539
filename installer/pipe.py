"""The pipe of an install: frames in, verified chunks out to the slot.

Three things overlap: the link fills the spool (frames.py), one thread decodes a frame, another
checks and writes the frame before it. What is held is bounded by memory, not by count: two coded
frames at most, each within what the plan allowed; copied and zero frames pass chunk by chunk.
Each thread is the same one throughout, because glibc keeps freed memory per thread.

Frames may read what earlier frames made: the decoding thread then waits for the writing one.

Nothing unverified reaches the slot: every chunk is checked against the signed tree first.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from slipstream.delta.byterange import ByteRange
from slipstream.delta.decode import ChunkAssembler, FrameDecoder
from slipstream.delta.errors import (
    DeviceFault,
    DigestMismatch,
    FormatError,
    PackingUnavailable,
    Rejected,
)
from slipstream.delta.frame import Frame, FrameKind, Part
from slipstream.delta.limits import (
    CHECKPOINT_TARGET_BYTES,
    CHUNK_BYTES,
    DRIFTED_CHUNKS_MAX,
    DRIFTS_MAX,
)
from slipstream.delta.payload import Index
from slipstream.delta.repack import Piece
from slipstream.delta.tree import ChunkList
from slipstream.installer.frame_numbers import chunk_span, long_frames
from slipstream.installer.frames import FrameSource
from slipstream.installer.ports import SlotTarget


@dataclass(frozen=True, slots=True)
class _Piece:
    """Target bytes; `data` is None where they could not be made, `stream` then the long stream that
    they are of, by its first frame."""

    offset: int
    size: int
    data: bytes | None
    stream: int | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """What a frame made, and the frame that its long stream begins with, in this pass, if any."""

    frame: Frame
    stream: int | None
    pieces: Iterable[_Piece]


@dataclass(slots=True)
class FramePipe:
    """One pass of a payload over a slot. Takes every chunk that it writes out of `left`.

    With a `source`, frames and chunks that come out wrong stay in `left`; without one they are
    Rejected. `on_checkpoint` gets the first frame still needed and the target bytes done, after
    these are durable. `repacked` are chunks that came out wrong of frames that pack content again.
    """

    index: Index
    source: SlotTarget | None
    target: SlotTarget
    chunks: ChunkList
    left: set[int]
    on_checkpoint: Callable[[int, int], None]
    on_progress: Callable[[int], None]
    bytes_written: int = 0
    repacked: set[int] = field(default_factory=set)
    _given_up: set[int] = field(default_factory=set)
    _drifts: int = 0  # frames and chunks that did not come out, those of one long stream once
    _stream: int | None = None  # the first frame of the long stream that is decoded
    _spoiled: set[int] = field(default_factory=set)  # long streams that came out wrong, ...
    _counted: set[int] = field(default_factory=set)  # ... of these, counted as a drift, ...
    _left_out: set[int] = field(default_factory=set)  # ... and not fetched any more
    _writing: Future[int | None] | None = None
    _assembler: ChunkAssembler = field(init=False)

    def __post_init__(self) -> None:
        self._assembler = self._new_assembler()

    async def run(self, frames: FrameSource) -> None:
        """Write what the frames make. Raises Rejected, Unavailable, DeviceFault."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[int | None] | None = None
        last, done, since_checkpoint = -1, 0, 0
        # Leaving waits for both threads: nothing goes on writing behind the caller's back, and no
        # encoder is closed under the thread that is in it.
        with (
            FrameDecoder(self.index, self._read_source, self._read_target) as decoder,
            ThreadPoolExecutor(1, "decode") as decoding,
            ThreadPoolExecutor(1, "write") as writer,
        ):
            async for number, encoded in frames:
                frame = self.index.frames[number]
                made = await loop.run_in_executor(decoding, self._decode, decoder, number, encoded)
                if writing is not None:
                    await writing
                self._leave_out(frames, number)
                done = frame.target.end if decoder.due_offset is None else decoder.due_offset
                last, since_checkpoint = number, since_checkpoint + frame.target.size
                # The next frame is decoded while this one is made durable.
                due = since_checkpoint >= CHECKPOINT_TARGET_BYTES or frames.pressure
                since_checkpoint = 0 if due else since_checkpoint
                self._writing = writer.submit(self._take, number, made, done, due)
                writing = asyncio.wrap_future(self._writing)
                writing.add_done_callback(partial(_settled, frames))
                if self._is_hopeless():
                    break
            if writing is not None:
                await writing
                await loop.run_in_executor(writer, self._checkpoint, last, done)

    def _leave_out(self, frames: FrameSource, number: int) -> None:
        """What comes behind frame `number` of long streams that came out wrong is not worth fetching."""
        for stream in set(self._spoiled) - self._left_out:
            self._left_out.add(stream)
            rest = long_frames(self.index.frames, stream)
            frames.leave_out(one for one in rest if one > number)

    def _is_hopeless(self) -> bool:
        """Whether so much came out wrong that the rest of the payload is not worth fetching."""
        return self._drifts > DRIFTS_MAX or len(self._given_up) > DRIFTED_CHUNKS_MAX

    # --- in the decoding thread

    def _decode(self, decoder: FrameDecoder, number: int, encoded: bytes | None) -> _Made:
        """What the frame makes: nothing, if its bytes could not be had (None).

        Of frames that are not coded the writer takes piece by piece.
        """
        frame = self.index.frames[number]
        stream = self._stream_of(number, frame.long_part)
        under_way = self._stream if stream is None else stream
        lost: list[_Piece] = []
        if under_way in self._spoiled:
            end = frame.target.offset if stream is None else frame.target.end
            lost = self._given_up_to(end, decoder, frame, under_way)
            if stream is not None:
                return _Made(frame, stream, lost)
        due_offset = decoder.due_offset
        if self._is_plain(frame) and due_offset is None:
            return _Made(frame, None, chain(lost, self._plain(frame)))
        try:
            if encoded is None:
                raise FormatError("frame is not what was signed")
            pieces = _pieces(decoder.feed(number, encoded))
        except (DeviceFault, Rejected, PackingUnavailable):
            if self.source is None:
                raise
            pieces = self._failed(decoder, number, under_way, due_offset)
        return _Made(frame, stream, lost + pieces)

    def _stream_of(self, number: int, part: Part | None) -> int | None:
        """The long stream that a frame is part of, by the first frame of it that was wanted."""
        if part is None:
            return None
        if part.begins or self._stream is None:
            self._stream = number
        stream = self._stream
        if part.ends:
            self._stream = None
        return stream

    def _failed(
        self, decoder: FrameDecoder, number: int, stream: int | None, due_offset: int | None
    ) -> list[_Piece]:
        """What is left of a frame that could not be made. Of a long stream nothing comes any more, but
        one that only goes on around the frame; `due_offset` is what that owed before."""
        frame = self.index.frames[number]
        if frame.long_part is None:
            if due_offset is None:
                return [_Piece(frame.target.offset, frame.target.size, None)]
            if decoder.due_offset is not None:
                with suppress(FormatError):  # too much waits: then the stream is given up too
                    return _pieces(decoder.lose(number))
        if stream is not None:
            self._spoiled.add(stream)
        begin = frame.target.offset if due_offset is None else due_offset
        decoder.drop()
        return _lost(begin, frame.target.end, stream)

    def _given_up_to(
        self, end: int, decoder: FrameDecoder, frame: Frame, stream: int | None
    ) -> list[_Piece]:
        """What a long stream that came out wrong owes before a frame, and up to `end`."""
        begin = frame.target.offset if decoder.due_offset is None else decoder.due_offset
        decoder.drop()
        return _lost(begin, end, stream)

    def _is_plain(self, frame: Frame) -> bool:
        """Whether the frame is zeros or bytes of the source as they stand."""
        if frame.kind is FrameKind.COPY:
            size = self.index.source_size
            packed = frame.parts or frame.outer
            return not packed and all(one.end <= size for one in frame.sources)
        return frame.kind is FrameKind.ZERO

    def _read_source(self, offset: int, size: int) -> bytes:
        return b"" if self.source is None else self.source.read(offset, size)

    def _read_target(self, offset: int, size: int) -> bytes:
        """Bytes that earlier frames made, or that stood there: written, once the writer is done."""
        if self._writing is not None:
            self._writing.result()
        first, last = chunk_span(ByteRange(offset, size))
        if not self.left.isdisjoint(range(first, last + 1)):
            raise FormatError("frame reads target bytes that are not made", where=f"byte {offset}")
        return self.target.read(offset, size)

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

    def _take(self, number: int, made: _Made, done: int, checkpoint: bool) -> int | None:
        """Check and write the chunks that a frame's pieces complete; they reach up to `done`.

        With `checkpoint`, make them durable: then the first frame that is still needed.
        """
        for piece in made.pieces:
            if piece.data is None:
                span = chunk_span(ByteRange(piece.offset, piece.size))
                self._drift(span, piece.stream, packed=_is_packed(made.frame))
                self._assembler = self._new_assembler()  # the one chunk it may have begun is lost
                continue
            for index, chunk in self._whole_chunks(piece.offset, piece.data):
                self._write(index, chunk, made)
        self.on_progress(done)
        return self._checkpoint(number, done) if checkpoint else None

    def _whole_chunks(self, offset: int, data: bytes) -> Iterable[tuple[int, bytes]]:
        index, within = divmod(offset, CHUNK_BYTES)
        if not within and len(data) == self.chunks.tuple.chunk_range(index).size:
            return [(index, data)] if self._wanted(index) else []  # nothing to assemble or to copy
        return self._assembler.feed(offset, data)

    def _write(self, index: int, chunk: bytes, made: _Made) -> None:
        try:
            self.chunks.check(index, chunk)
        except DigestMismatch:
            if self.source is None:
                raise
            frames = list(self._frames_of(index))
            # Where others have a share in it, the stream need not be at fault.
            alone = all(one.long_part is not None for one in frames) and not any(
                one.long_part is not None and one.long_part.ends for one in frames[:-1]
            )
            packed = any(map(_is_packed, frames))
            self._drift((index, index), made.stream if alone else None, packed=packed)
            return
        self.bytes_written += self.target.write(index * CHUNK_BYTES, chunk)
        self.left.discard(index)

    def _frames_of(self, chunk: int) -> Iterator[Frame]:
        """The frames that have target bytes in a chunk."""
        place, frames = self.chunks.tuple.chunk_range(chunk), self.index.frames
        number = bisect_right(frames, place.offset, key=lambda one: one.target.end)
        while number < len(frames) and frames[number].target.offset < place.end:
            yield frames[number]
            number += 1

    def _drift(self, span: tuple[int, int], stream: int | None, *, packed: bool) -> None:
        """The chunks of a span that are not there come from elsewhere.

        One wrong byte spoils a long `stream` up to its end: all of them count once. `packed`:
        their content was packed again.
        """
        lost = self.left.intersection(range(span[0], span[1] + 1))
        self._given_up |= lost
        if packed:
            self.repacked |= lost
        if stream is None or stream not in self._counted:
            self._drifts += 1
        if stream is not None:
            self._counted.add(stream)
            self._spoiled.add(stream)

    def _wanted(self, index: int) -> bool:
        return index in self.left and index not in self._given_up

    def _new_assembler(self) -> ChunkAssembler:
        return ChunkAssembler(self.index.target_size, self._wanted)

    def _checkpoint(self, number: int, done: int) -> int:
        """Make what stands durable, then say so. The first frame that is still needed.

        Frames that reach into the chunk under way are needed until it is written.
        """
        self.target.sync()
        frames = self.index.frames
        if done < self.index.target_size:
            done -= done % CHUNK_BYTES
        needed = number + 1
        while needed and (frames[needed - 1].target.end > done or _is_owed(frames, needed)):
            needed -= 1
        self.on_checkpoint(needed, done)
        return needed


def _is_owed(frames: Sequence[Frame], number: int) -> bool:
    """Whether a frame brings bytes of frames before it: no decoder can begin with it."""
    return number < len(frames) and frames[number].owed > 0


def _pieces(made: Iterable[Piece]) -> list[_Piece]:
    return [_Piece(one.offset, len(one.data), one.data) for one in made]


def _lost(begin: int, end: int, stream: int | None) -> list[_Piece]:
    """That a range could not be made; nothing to say of an empty one."""
    return [_Piece(begin, end - begin, None, stream)] if begin < end else []


def _is_packed(frame: Frame) -> bool:
    return bool(frame.parts or frame.outer)


def _settled(frames: FrameSource, writing: "asyncio.Future[int | None]") -> None:
    """A frame is written: what a checkpoint made durable need not be kept.

    An error of the last write that something worse overtook is not an unheard one.
    """
    if writing.cancelled() or writing.exception() is not None:
        return
    needed = writing.result()
    if needed is not None:
        frames.release(needed)
