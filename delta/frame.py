"""One frame of a payload, as a value that cannot be wrong.

A frame is fetched, checked, decoded and resumed as a whole. It names its source extents, so it
decodes with no other frame's help. What decoding gives is its content. Without parts that is the
target; with parts, stretches of it are packed again on the way (delta/packing/), so that the
target holds compressed bytes where the content is what they unpack to.

All that follows from something else (target size, encoded size, memory) is checked against it
here, for frames that are made as for frames that are read.
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
    FRAME_CODED_TARGET_BYTES_MAX,
    FRAME_ENCODED_BYTES_MAX,
    FRAME_PARTS_MAX,
    FRAME_SOURCE_BYTES_MAX,
    FRAME_SOURCES_MAX,
    FRAME_TARGET_BYTES_MAX,
    NUMBERS_BYTES_MAX,
    PACK_AHEAD_BYTES_MAX,
    RESUME_BYTES,
)
from slipstream.delta.packing.recipe import (
    Packer,
    Recipe,
    decoder_memory_bytes,
    is_streamed,
    pack_memory_bytes,
)
from slipstream.delta.stream_table import STREAMED

CONTROL_BYTES = 24  # one instruction: three 8-byte numbers

Sources: TypeAlias = tuple[ByteRange, ...]
Streams: TypeAlias = tuple["Stream", ...]
Parts: TypeAlias = tuple["Part", ...]


class FrameKind(IntEnum):
    """What a frame does; the number stands in payloads (docs/format.md, 4.2)."""

    ZERO = 0
    COPY = 1
    DATA = 2
    DIFF = 3
    PREFIX = 4


_EXTRA = (FrameKind.DIFF, 2)  # the stream of a frame that may repeat its sources


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
class Part:
    """A stretch of a frame's content, and what becomes of it.

    size         content bytes
    packed_size  target bytes that the frame accounts for
    recipe       how the content is packed; None: it stands as it is, or, with a packed_size of
                 0, is dropped (an encoder before it looked that far ahead)
    begins, ends whether the packed stream begins and ends here. A stream that goes on is fed to
                 one encoder over several frames; its bytes come out when the encoder gives them,
                 at the latest with the end, and `packed_size` only says which of them need this
                 frame: unpacking all that the frames before account for gives at least their
                 content.
    """

    size: int
    packed_size: int
    recipe: Recipe | None = None
    begins: bool = True
    ends: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise FormatError("empty part")
        if self.recipe is None:
            fits = self.packed_size in (0, self.size) and self.is_whole
        else:
            fits = self.packed_size >= 1
        if not fits:
            raise FormatError(
                "part of impossible packed size",
                expected=f"0 or {self.size}" if self.recipe is None else "at least 1",
                got=self.packed_size,
            )
        if self.recipe is not None and not self.is_whole and not _can_go_on(self.recipe):
            raise FormatError("long stream of a packer of single blocks", got=str(self.recipe))

    @property
    def ahead_bytes(self) -> int:
        """Bytes behind its content that its encoder looks at."""
        if self.recipe is None or self.recipe.packer is not Packer.LZ4_DEST:
            return 0
        return self.recipe.parameters[1]

    @property
    def is_whole(self) -> bool:
        """Whether no stream goes on before or behind it."""
        return self.begins and self.ends


def _can_go_on(recipe: Recipe) -> bool:
    """Whether a recipe packs from pieces, and what it made is unpacked from pieces too."""
    return is_streamed(recipe) and recipe.packing in STREAMED


@dataclass(frozen=True, slots=True)
class Frame:
    """One row of the frame table; raises FormatError unless it is consistent.

    target    the bytes of the target that it makes: at least one
    sources   what it reads of the source, in the order in which it is joined (COPY, DIFF, PREFIX)
    encoded   its bytes within the payload's body (empty for ZERO and COPY)
    digest    SHA-256 of the encoded bytes (DATA, DIFF, PREFIX; None where there are none)
    streams   DATA and PREFIX: one; DIFF: numbers, values, extra; in this order in the encoded bytes
    memory_bytes  `frame_memory_bytes` of the rest
    parts     what becomes of the content, in order; none: nothing
    outer     what becomes of that, in order; none: it is the target. Whole parts only: a stream
              that stands in the blocks of a compressed file system is packed twice
    owed      packed bytes that go to outer parts of frames before, which wait for them
    """

    kind: FrameKind
    target: ByteRange
    sources: Sources
    encoded: ByteRange
    digest: Digest | None
    streams: Streams
    memory_bytes: int
    parts: Parts = ()
    outer: Parts = ()
    owed: int = 0

    def __post_init__(self) -> None:
        _check_shape(self.kind, self.sources, self.streams, self.digest)
        _check_codecs(self.kind, self.streams)
        size = self.content_size
        _check_content(self.kind, size, self.sources, self.streams)
        _check_parts(self.kind, self.parts, size)
        size = packed_size(self.parts, size)
        if self.outer or self.owed:
            size = self._size_of_outer(size)
        coded = self.kind not in {FrameKind.ZERO, FrameKind.COPY}
        size_max = FRAME_CODED_TARGET_BYTES_MAX if coded else FRAME_TARGET_BYTES_MAX
        size_min = 0 if self.owed else 1
        if self.target.size != size or not size_min <= size <= size_max:
            raise FormatError(
                f"{self.kind.name} frame of impossible target size",
                where=f"target offset {self.target.offset}",
                expected=f"{size} bytes by its parts, {size_min}..{size_max}",
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
        memory = frame_memory_bytes(
            self.kind, self.target, self.sources, self.streams, self.parts, self.outer
        )
        if self.memory_bytes != memory:
            raise FormatError(
                "frame declares another memory", expected=memory, got=self.memory_bytes
            )

    def _size_of_outer(self, size: int) -> int:
        """Target bytes of outer parts, of which `size` packed bytes are the first."""
        if not all(part.is_whole for part in self.outer):
            raise FormatError("part of a long stream that is packed last")
        _check_parts(self.kind, self.outer, sum(part.size for part in self.outer))
        waiting = self.owed + sum(part.size for part in self.outer) - size
        # Only the frames of a long stream may bring the rest later.
        if waiting < 0 or (self.long_part is None and (waiting or self.owed)):
            raise FormatError(
                "outer parts of another size than what they are made of",
                where=f"target offset {self.target.offset}",
                expected=size,
                got=size + waiting,
            )
        return sum(part.packed_size for part in self.outer)

    @property
    def waiting(self) -> int:
        """Packed bytes that its outer parts, and those before, need of later frames."""
        if not self.outer and not self.owed:
            return 0
        held = self.owed + sum(part.size for part in self.outer)
        return held - packed_size(self.parts, self.content_size)

    @property
    def source_size(self) -> int:
        """Source bytes that it reads."""
        return sum(source.size for source in self.sources)

    @property
    def content_size(self) -> int:
        """Bytes that decoding gives, before anything is packed."""
        return content_size(self.parts, content_size(self.outer, self.target.size))

    @property
    def long_part(self) -> Part | None:
        """Its part of a long stream; None where it has none."""
        return next((part for part in self.parts if not part.is_whole), None)


def make_frame(
    kind: FrameKind,
    target: ByteRange,
    *,
    sources: Iterable[ByteRange] = (),
    encoded_offset: int = 0,
    digest: Digest | None = None,
    streams: Iterable[Stream] = (),
    parts: Iterable[Part] = (),
    outer: Iterable[Part] = (),
    owed: int = 0,
) -> Frame:
    """A frame whose encoded size and memory are worked out from the rest."""
    held = tuple(sources)
    coded = tuple(streams)
    first, last = tuple(parts), tuple(outer)
    encoded = ByteRange(encoded_offset, sum(stream.encoded_size for stream in coded))
    memory = frame_memory_bytes(kind, target, held, coded, first, last)
    return Frame(kind, target, held, encoded, digest, coded, memory, first, last, owed)


def content_size(parts: Parts, size: int) -> int:
    """Bytes that go into parts, of which `size` come out; without parts these are the same."""
    return sum(part.size for part in parts) if parts else size


def packed_size(parts: Parts, size: int) -> int:
    """Bytes that come out of parts when `size` go in; without parts these are the same."""
    return sum(part.packed_size for part in parts) if parts else size


def frame_memory_bytes(
    kind: FrameKind,
    target: ByteRange,
    sources: Sources,
    streams: Streams,
    parts: Parts = (),
    outer: Parts = (),
) -> int:
    """Peak bytes that decoding holds: input, source, streams, output, and the codecs' own.

    Sources are joined, then streams decoded one after the other, then parts packed one after the
    other, so the hungriest of them counts alone. An upper bound worked out from lengths; encoder
    and decoder agree because both ask here. What follows from the whole table is not in it:
    unpacking of sources, and a long stream under way behind the frame, or resumed (frame_table.py).
    """
    middle = content_size(outer, target.size)
    content = content_size(parts, middle)
    source = sum(extent.size for extent in sources)
    encoded = sum(stream.encoded_size for stream in streams)
    held = content + source + encoded
    if kind is FrameKind.DIFF:
        # Numbers take 8 bytes each, and so do their columns, the instructions, and these copied.
        held += sum(stream.size for stream in streams) + 32 * streams[0].size + content
    # Joining the pieces of a decoded stream holds it twice for a moment.
    decoding = held + max(
        (codec_memory_bytes(one.codec, one.size, source) + one.size for one in streams),
        default=0,
    )
    # A long stream's encoder lives on from frame to frame: it is there while one is decoded.
    long = packing = 0
    for part in (*parts, *outer):
        held = part.size + PACK_AHEAD_BYTES_MAX + part.packed_size
        if part.recipe is not None:
            encoder = pack_memory_bytes(part.recipe, part.size)
            long += 0 if part.is_whole else encoder
            held += encoder if part.is_whole else 0
        packing = max(packing, content + 2 * middle + target.size + held)
    return max(2 * source + encoded, decoding, packing) + long


def resume_memory_bytes(long: Part, parts: Parts, encoded_size: int, block_bytes: int) -> int:
    """Peak bytes while the stream of `long`, one of `parts`, is resumed at their frame: its encoder,
    the decoder that gives it what was fed before, and what the frame has become so far.

    `block_bytes` is what unpacking an outer part of a frame before it holds (stream_table.py).
    """
    assert long.recipe is not None  # a part without is whole
    held = content_size(parts, 0) + packed_size(parts, 0) + encoded_size
    coders = decoder_memory_bytes(long.recipe) + pack_memory_bytes(long.recipe, long.size)
    return held + coders + block_bytes + RESUME_BYTES


def _check_shape(
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
        case FrameKind.PREFIX:
            fits = bool(sources) and len(streams) == 1
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


def _check_codecs(kind: FrameKind, streams: Streams) -> None:
    """What may repeat the source is the whole of a PREFIX frame, and of a DIFF frame its extra."""
    for number, stream in enumerate(streams):
        behind = stream.codec is Codec.LZMA2_PREFIX
        fits = behind if kind is FrameKind.PREFIX else not behind or (kind, number) == _EXTRA
        if not fits:
            raise FormatError(
                f"{kind.name} frame with a stream of a codec that it cannot have",
                where=f"stream {number}",
                got=stream.codec.name,
            )


def _check_parts(kind: FrameKind, parts: Parts, content_size: int) -> None:
    if not parts:
        return
    if len(parts) > FRAME_PARTS_MAX or sum(part.size for part in parts) != content_size:
        raise FormatError(
            "parts that do not make up the content",
            expected=f"at most {FRAME_PARTS_MAX} parts, {content_size} bytes",
            got=f"{len(parts)} parts, {sum(part.size for part in parts)} bytes",
        )
    size_max = FRAME_CODED_TARGET_BYTES_MAX
    if kind is FrameKind.ZERO or max(content_size, packed_size(parts, 0)) > size_max:
        raise FormatError(
            f"{kind.name} frame with parts, of {content_size} bytes",
            expected=f"COPY, DATA, DIFF or PREFIX, at most {size_max} bytes, before and behind",
        )
    # One encoder lives on from frame to frame.
    if sum(not part.is_whole for part in parts) > 1:
        raise FormatError("parts of several long streams in one frame", got=f"{len(parts)} parts")


def _check_content(kind: FrameKind, size: int, sources: Sources, streams: Streams) -> None:
    """Whether `size` bytes of content can come from what a frame is decoded from."""
    read = sum(source.size for source in sources)
    if kind in {FrameKind.DIFF, FrameKind.PREFIX} and read > FRAME_SOURCE_BYTES_MAX:
        raise FormatError(
            f"{kind.name} frame reads too much",
            expected=f"at most {FRAME_SOURCE_BYTES_MAX} source bytes",
            got=read,
        )
    match kind:
        case FrameKind.ZERO:
            fits = True
        case FrameKind.COPY:
            fits = read == size
        case FrameKind.DATA | FrameKind.PREFIX:
            fits = streams[0].size == size
        case FrameKind.DIFF:
            numbers, values, extra = streams
            if numbers.size > NUMBERS_BYTES_MAX:
                raise FormatError(
                    "too many numbers in a DIFF frame",
                    expected=f"at most {NUMBERS_BYTES_MAX} bytes",
                    got=numbers.size,
                )
            fits = values.size + extra.size <= size
        case _:
            assert_never(kind)
    if not fits:
        raise FormatError(
            f"{kind.name} frame whose content has another size than its parts", got=size
        )
