"""One frame of a payload, as a value that cannot be wrong.

A frame is fetched, checked, decoded and resumed as a whole. It names its source extents, so it
decodes with no other frame's help. All that follows from something else (target size, encoded
size, memory) is checked against it here, for frames that are made as for frames that are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias, assert_never

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, codec_memory_bytes
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    CONTROL_BYTES_MAX,
    FRAME_CODED_TARGET_BYTES_MAX,
    FRAME_ENCODED_BYTES_MAX,
    FRAME_SOURCE_BYTES_MAX,
    FRAME_SOURCES_MAX,
    FRAME_TARGET_BYTES_MAX,
)

CONTROL_BYTES = 24  # one instruction: three 8-byte numbers

Sources: TypeAlias = tuple[ByteRange, ...]
Streams: TypeAlias = tuple["Stream", ...]


class FrameKind(IntEnum):
    """What a frame does; the number stands in payloads (docs/format.md, 4.2)."""

    ZERO = 0
    COPY = 1
    DATA = 2
    DIFF = 3


@dataclass(frozen=True, slots=True)
class Stream:
    """One compressed stream of a frame: its codec, and its length before and after decoding."""

    codec: Codec
    encoded_size: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.encoded_size <= FRAME_ENCODED_BYTES_MAX:
            raise FormatError(
                "stream too long",
                expected=f"at most {FRAME_ENCODED_BYTES_MAX} encoded bytes",
                got=self.encoded_size,
            )
        if not 0 <= self.size <= FRAME_CODED_TARGET_BYTES_MAX:
            raise FormatError(
                "stream decodes to too much",
                expected=f"at most {FRAME_CODED_TARGET_BYTES_MAX} bytes",
                got=self.size,
            )
        if self.codec is Codec.NONE and self.encoded_size != self.size:
            raise FormatError(
                "uncompressed stream of two lengths", expected=self.encoded_size, got=self.size
            )


@dataclass(frozen=True, slots=True)
class Frame:
    """One row of the frame table; raises FormatError unless it is consistent.

    target    the bytes of the target that it makes: at least one
    sources   what it reads of the source, in the order in which it is joined (COPY, DIFF)
    encoded   its bytes within the payload's body (empty for ZERO and COPY)
    digest    SHA-256 of the encoded bytes (DATA and DIFF; None where there are none)
    streams   DATA: one; DIFF: control, diff, extra; in this order in the encoded bytes
    memory_bytes  `frame_memory_bytes` of the rest
    """

    kind: FrameKind
    target: ByteRange
    sources: Sources
    encoded: ByteRange
    digest: Digest | None
    streams: Streams
    memory_bytes: int

    def __post_init__(self) -> None:
        _check_parts(self.kind, self.sources, self.streams, self.digest)
        size = _target_size(self.kind, self.target, self.sources, self.streams)
        coded = self.kind in {FrameKind.DATA, FrameKind.DIFF}
        size_max = FRAME_CODED_TARGET_BYTES_MAX if coded else FRAME_TARGET_BYTES_MAX
        if self.target.size != size or not 1 <= size <= size_max:
            raise FormatError(
                f"{self.kind.name} frame of impossible target size",
                where=f"target offset {self.target.offset}",
                expected=f"{size} bytes by its parts, 1..{size_max}",
                got=self.target.size,
            )
        encoded_size = sum(stream.encoded_size for stream in self.streams)
        if self.encoded.size != encoded_size or encoded_size > FRAME_ENCODED_BYTES_MAX:
            raise FormatError(
                "frame of impossible encoded size",
                where=f"target offset {self.target.offset}",
                expected=f"{encoded_size} bytes by its streams, at most {FRAME_ENCODED_BYTES_MAX}",
                got=self.encoded.size,
            )
        memory = frame_memory_bytes(self.kind, self.target, self.sources, self.streams)
        if self.memory_bytes != memory:
            raise FormatError(
                "frame declares another memory", expected=memory, got=self.memory_bytes
            )

    @property
    def source_size(self) -> int:
        """Source bytes that it reads."""
        return sum(source.size for source in self.sources)


def make_frame(
    kind: FrameKind,
    target: ByteRange,
    *,
    sources: Iterable[ByteRange] = (),
    encoded_offset: int = 0,
    digest: Digest | None = None,
    streams: Iterable[Stream] = (),
) -> Frame:
    """A frame whose encoded size and memory are worked out from the rest."""
    held = tuple(sources)
    parts = tuple(streams)
    encoded = ByteRange(encoded_offset, sum(stream.encoded_size for stream in parts))
    memory = frame_memory_bytes(kind, target, held, parts)
    return Frame(kind, target, held, encoded, digest, parts, memory)


def frame_memory_bytes(
    kind: FrameKind, target: ByteRange, sources: Sources, streams: Streams
) -> int:
    """Peak bytes that decoding holds: input, source, streams, output, and the codec's own.

    Streams are decoded one after the other, so the hungriest codec counts alone. An upper bound
    worked out from lengths; encoder and decoder agree because both ask here.
    """
    held = target.size + sum(source.size for source in sources)
    held += sum(stream.encoded_size for stream in streams)
    if kind is FrameKind.DIFF:
        held += sum(stream.size for stream in streams)
    # Joining the pieces of a decoded stream holds it twice for a moment.
    return held + max(
        (codec_memory_bytes(stream.codec, stream.size) + stream.size for stream in streams),
        default=0,
    )


def _check_parts(
    kind: FrameKind, sources: Sources, streams: Streams, digest: Digest | None
) -> None:
    match kind:
        case FrameKind.ZERO:
            fits = not sources and not streams
        case FrameKind.COPY:
            fits = bool(sources) and not streams
        case FrameKind.DATA:
            fits = not sources and len(streams) == 1
        case FrameKind.DIFF:
            fits = bool(sources) and len(streams) == 3
        case _:
            assert_never(kind)
    if not fits or (digest is None) == bool(streams):
        raise FormatError(
            f"{kind.name} frame with the wrong parts",
            got=f"{len(sources)} sources, {len(streams)} streams, digest {digest}",
        )
    if len(sources) > FRAME_SOURCES_MAX:
        raise FormatError(
            "frame with too many sources", expected=f"at most {FRAME_SOURCES_MAX}", got=len(sources)
        )
    if any(source.size == 0 for source in sources):
        raise FormatError("empty source extent")


def _target_size(kind: FrameKind, target: ByteRange, sources: Sources, streams: Streams) -> int:
    """The target size that follows from a frame's parts."""
    match kind:
        case FrameKind.ZERO:
            return target.size
        case FrameKind.COPY:
            return sum(source.size for source in sources)
        case FrameKind.DATA:
            return streams[0].size
        case FrameKind.DIFF:
            control, diff, extra = streams
            read = sum(source.size for source in sources)
            if read > FRAME_SOURCE_BYTES_MAX:
                raise FormatError(
                    "DIFF frame reads too much",
                    expected=f"at most {FRAME_SOURCE_BYTES_MAX} source bytes",
                    got=read,
                )
            if control.size > CONTROL_BYTES_MAX or control.size % CONTROL_BYTES:
                raise FormatError(
                    "control stream of impossible length",
                    expected=f"a multiple of {CONTROL_BYTES}, at most {CONTROL_BYTES_MAX}",
                    got=control.size,
                )
            return diff.size + extra.size
        case _:
            assert_never(kind)
