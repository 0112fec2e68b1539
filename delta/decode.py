"""Payload frames to target bytes, without input or output.

The caller fetches encoded bytes and reads source bytes in its own way and hands them in; the
digest of what was fetched is checked before a decoder sees it. What comes out is still only what
the payload's maker said: who writes to a slot checks chunks against the tree (tree.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never

from slipstream.delta.bspatch import apply_diff
from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import decompress
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Sources
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.payload import Index


def decode_frame(frame: Frame, encoded: bytes, source: bytes) -> bytes:
    """The `frame.target.size` bytes that a frame makes; Rejected and no other error.

    `encoded` is the frame's bytes of the body, `source` its source extents joined. Holds at most
    `frame.memory_bytes` at once.
    """
    if len(encoded) != frame.encoded.size:
        raise FormatError(
            "frame of another length", expected=f"{frame.encoded.size} bytes", got=len(encoded)
        )
    if frame.digest is not None:
        where = f"target bytes {frame.target.offset}..{frame.target.end}"
        frame.digest.check(encoded, "frame", where)
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
            return _decode_streams(frame, encoded)[0]
        case FrameKind.DIFF:
            control, diff, extra = _decode_streams(frame, encoded)
            return apply_diff(control, diff, extra, source, frame.target.size)
        case _:
            assert_never(frame.kind)


def _decode_streams(frame: Frame, encoded: bytes) -> list[bytes]:
    decoded = []
    view = memoryview(encoded)
    offset = 0
    for stream in frame.streams:
        end = offset + stream.encoded_size
        decoded.append(decompress(stream.codec, view[offset:end], stream.size))
        offset = end
    return decoded


@dataclass(frozen=True, slots=True)
class Wants:
    """What the decoder needs next: body bytes, and source extents to be joined in order."""

    frame_index: int
    encoded: ByteRange
    sources: Sources


@dataclass(frozen=True, slots=True)
class Piece:
    """Decoded bytes and their place in the target."""

    offset: int
    data: bytes


class FrameDecoder:
    """Walks an index frame by frame; starts at any frame, so a cut costs no decoding before it.

        while decoder.wants is not None:
            piece = decoder.feed(encoded, source)   # the bytes that wants names

    A frame that is rejected stays wanted: good bytes may follow bad ones.
    """

    def __init__(self, index: Index, first_frame: int = 0) -> None:
        if not 0 <= first_frame <= len(index.frames):
            raise FormatError(
                "no such frame", expected=f"0..{len(index.frames)}", got=f"frame {first_frame}"
            )
        self._frames = index.frames
        self._next = first_frame

    @property
    def wants(self) -> Wants | None:
        """The next frame's needs; None behind the last frame."""
        if self._next == len(self._frames):
            return None
        frame = self._frames[self._next]
        return Wants(self._next, frame.encoded, frame.sources)

    def feed(self, encoded: bytes, source: bytes) -> Piece:
        """Decode the wanted frame and move on; Rejected, and nothing moves."""
        if self._next == len(self._frames):
            raise FormatError("bytes behind the last frame")
        frame = self._frames[self._next]
        piece = Piece(frame.target.offset, decode_frame(frame, encoded, source))
        self._next += 1
        return piece


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
