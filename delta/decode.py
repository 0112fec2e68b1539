"""Payload frames to target bytes, without input or output.

The caller fetches encoded bytes and reads source bytes in its own way and hands them in; the
digest of what was fetched is checked before a decoder sees it. What comes out is still only what
the payload's maker said: who writes to a slot checks chunks against the tree (tree.py).
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, assert_never

from slipstream.delta.bspatch import apply_diff
from slipstream.delta.codec import decompress
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError
from slipstream.delta.frame import Frame, FrameKind
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.payload import Index
from slipstream.delta.repack import Piece, Repacker
from slipstream.delta.space import Read, Space
from slipstream.delta.sparse import read_numbers


def decode_frame(frame: Frame, encoded: bytes, source: bytes) -> bytes:
    """The `frame.content_size` bytes that a frame decodes to; Rejected and no other error.

    `encoded` is the frame's bytes of the body, `source` its source extents joined. What becomes
    of the content is repack.py's business. Holds at most `frame.memory_bytes` at once.
    """
    if len(encoded) != frame.encoded.size:
        raise FormatError(
            "frame of another length", expected=f"{frame.encoded.size} bytes", got=len(encoded)
        )
    if frame.digest is not None:
        where = f"target bytes {frame.target.offset}..{frame.target.end}"
        got = Digest.of(encoded)
        if got != frame.digest:
            raise DigestMismatch("frame is damaged", where=where, expected=frame.digest, got=got)
    if len(source) != frame.source_size:
        raise FormatError(
            "source of another length", expected=f"{frame.source_size} bytes", got=len(source)
        )
    match frame.kind:
        case FrameKind.ZERO:
            return bytes(frame.target.size)
        case FrameKind.COPY:
            return source
        case FrameKind.DATA:
            return _decode_streams(frame, encoded, b"")[0]
        case FrameKind.PREFIX:
            return _decode_streams(frame, encoded, source)[0]
        case FrameKind.DIFF:
            numbers, values, extra = _decode_streams(frame, encoded, source)
            size = frame.content_size
            control, diff = read_numbers(numbers, values, size - len(extra))
            return apply_diff(control, diff, extra, source, size)
        case _:
            assert_never(frame.kind)


def _decode_streams(frame: Frame, encoded: bytes, source: bytes) -> list[bytes]:
    decoded = []
    view = memoryview(encoded)
    offset = 0
    for stream in frame.streams:
        end = offset + stream.encoded_size
        decoded.append(decompress(stream.codec, view[offset:end], stream.size, source))
        offset = end
    return decoded


class FrameDecoder:
    """Runs the frames of one payload: their sources read, decoded, and packed again.

        with FrameDecoder(index, read_source, read_target) as decoder:
            pieces = decoder.feed(number, encoded)     # for rising frame numbers

    The two functions give exactly the bytes (offset, size) of their image, or raise. `read_target`
    is asked for bytes that frames before made, in this pass or an earlier one: written, whether or
    not they are durable. It is the caller's to raise FormatError for others: a payload may ask for
    anything. Frames whose target stands may be left out, but for those of a long stream: of these
    only the first ones, up to one that is owed nothing. A frame whose digest is wrong may be fed
    again: good bytes may follow bad ones.
    """

    def __init__(self, index: Index, read_source: Read, read_target: Read) -> None:
        self._frames = index.frames
        self._last_reads = index.last_reads
        self._space = Space(
            index.source_size,
            index.target_size,
            index.streams,
            read_source,
            read_target,
        )
        self._repacker = Repacker(index.frames, read_target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._repacker.drop()

    def feed(self, number: int, encoded: bytes) -> list[Piece]:
        """Target bytes that are ready now, in order; Rejected, and what reading and packing raise.

        After an error nothing is owed any more (`due_offset`), unless the frame stands between those
        of a long stream and only itself is at fault: then `lose` it.
        """
        frame = self._frames[number]
        if self._repacker.resumes(number):
            # Its decoder and the cursors are never there at one time: each is as large as the other.
            self._space.keep_cursors(())
            self._repacker.resume(number)
        content = decode_frame(frame, encoded, self._space.read(frame.sources))
        if self._last_reads:
            read_later = {one for one, last in self._last_reads.items() if last > number}
            self._space.keep_cursors(read_later)
        return self._repacker.feed(number, content)

    def lose(self, number: int) -> list[Piece]:
        """The frame could not be made: zeros come instead, behind what earlier frames owe.

        For frames that are no part of a long stream; FormatError where too much waits.
        """
        return self._repacker.lose(number)

    @property
    def due_offset(self) -> int | None:
        """The first target byte that earlier frames still owe; None where they owe nothing."""
        return self._repacker.due_offset

    def drop(self) -> None:
        """Give up what earlier frames still owe: the target from `due_offset` on will not come."""
        self._repacker.drop()


class ChunkAssembler:
    """Target pieces in order to whole chunks; may start anywhere and leave out unwanted chunks.

    `target_size` in bytes; `wanted(index)` says whether a chunk is to come out, and must answer
    alike each time. Holds at most one chunk besides the piece at hand.
    """

    def __init__(self, target_size: int, wanted: Callable[[int], bool]) -> None:
        self._size = target_size
        self._wanted = wanted
        self._position = 0  # end of the bytes seen
        self._begun = bytearray()  # of the wanted chunk that `position` lies in

    def feed(self, offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The wanted chunks that `data` completes: (index, bytes). Use it up before the next feed.

        FormatError for bytes that go back, reach past the target, or leave out some of a wanted
        chunk. Whole chunks left out on the way are not missed: their frames were not fetched.
        """
        if offset < self._position or offset + len(data) > self._size:
            raise FormatError(
                "target bytes out of order",
                expected=f"from {self._position} to {self._size}",
                got=f"{offset}..{offset + len(data)}",
            )
        if offset > self._position:
            self._check_nothing_begun()
        view = memoryview(data)
        while view:
            index, within = divmod(offset, CHUNK_BYTES)
            room = min(CHUNK_BYTES, self._size - index * CHUNK_BYTES) - within
            piece = view[:room]
            view = view[room:]
            offset += len(piece)
            self._position = offset
            if not self._wanted(index):
                continue
            if len(self._begun) != within:
                raise FormatError(
                    "target bytes missing",
                    where=f"chunk {index}",
                    expected=f"offset {index * CHUNK_BYTES + len(self._begun)}",
                    got=offset - len(piece),
                )
            if not within and len(piece) == room:
                yield index, bytes(piece)
                continue
            self._begun += piece
            if len(piece) == room:
                chunk = bytes(self._begun)
                self._begun.clear()
                yield index, chunk

    def finish(self) -> None:
        """Call behind the last piece: FormatError if a wanted chunk was begun and not completed."""
        self._check_nothing_begun()

    def _check_nothing_begun(self) -> None:
        if self._begun:
            raise FormatError(
                "target bytes missing",
                where=f"chunk {self._position // CHUNK_BYTES}",
                expected=f"offset {self._position}",
            )
