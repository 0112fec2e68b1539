"""Bytes to frames: the smallest of what a payload can say about a stretch of the target.

Build machine only. Contract: a window gives frames that cover it, in order; no frame is larger
than the same bytes compressed alone; every coded frame has been decoded again before it is
returned; same inputs, same frames. Where the source bytes come from is windows.py's business.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np

from slipstream.delta.bsdiff import Segment, SourceIndex, cut, write_script
from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, compress, compress_smallest
from slipstream.delta.decode import decode_frame
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Stream, frame_memory_bytes, make_frame
from slipstream.delta.limits import (
    CONTROL_BYTES_MAX,
    FRAME_ENCODED_BYTES_MAX,
    FRAME_ENCODED_BYTES_SOFT,
    KIB,
    NUMBERS_BYTES_MAX,
)
from slipstream.delta.partition import Half, Partition
from slipstream.delta.prefix import can_prefix, compress_behind
from slipstream.delta.profile import Profile, frame_bytes
from slipstream.delta.seeds import Bytes
from slipstream.delta.sparsify import write_numbers

_SMALL_STREAM_BYTES = 64 * KIB  # below it trying every codec is cheap, and headers count
_SOURCE_GAP_BYTES = 4 * KIB  # unused source bytes that are read rather than spend an extent
# Bits of the byte before a number, or a value, of a difference that LZMA2 looks at (small Debian pair,
# 110 windows, numbers: 0, 1, 2, 3, 4 bits 255.1, 249.5, 250.4, 251.9, 254.1 KB; values: 229.1, 229.8,
# 229.8, 230.3, 231.0).
_NUMBER_CONTEXTS = 1
_VALUE_CONTEXTS = 0
_PREFIX_GAIN_MIN = 1.01
_NEW_SHARE = 1 / 2  # a diff of more, of its content compressed alone: most of it is new
_PREFIX_SHARE = (
    256  # what a diff adds, of its source: for less, taking the source in costs too much
)
_GUESS_FACTOR = 1.5  # of a frame's encoded bytes by zstd's quickest level; LZMA makes 60-80 % of it
_SPLIT_BYTES_MIN = 64 * KIB  # a window is not cut finer, whatever its frames' length


Coded: TypeAlias = tuple[Stream, bytes]


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A frame and its encoded bytes; its `encoded` offset is 0 until it gets a place in a body."""

    frame: Frame
    encoded: bytes


def encode_full(target: bytes, offset: int, profile: Profile) -> EncodedFrame:
    """The data frame of a full payload for `target`, which stands at `offset`."""
    codec, encoded = Codec.ZSTD, compress(Codec.ZSTD, target, profile.full_level)
    if len(encoded) >= len(target):
        codec, encoded = Codec.NONE, target
    streams = (Stream(codec, len(encoded), len(target)),)
    place = ByteRange(offset, len(target))
    frame = make_frame(FrameKind.DATA, place, digest=Digest.of(encoded), streams=streams)
    return _proved(EncodedFrame(frame, encoded), b"", target)


def encode_window(
    content: bytes,
    offset: int,
    partition: Partition,
    source: bytes,
    sources: tuple[ByteRange, ...],
    profile: Profile,
    before: bytes = b"",
    more: tuple[ByteRange, ...] = (),
) -> tuple[EncodedFrame, ...]:
    """Frames whose content is `content`, for the target from `offset` on.

    `partition` says what becomes of the content; `source` are the source extents, joined. `before`
    are further bytes, at the extents `more`, that compressed bytes may repeat as well.
    """
    window = _Window(
        np.frombuffer(content, np.uint8), np.frombuffer(source, np.uint8), sources, profile
    )
    window.put_before(before, more)
    return tuple(window.encode(Half(0, partition), offset))


class _Window:
    """One window being encoded, aligned with its source once."""

    def __init__(
        self, target: Bytes, source: Bytes, sources: tuple[ByteRange, ...], profile: Profile
    ) -> None:
        self.target = target
        self.source = source
        self.sources = sources
        self.profile = profile
        self.whole_prefix = source.tobytes(), sources
        self.soft_bytes = FRAME_ENCODED_BYTES_SOFT
        self.held_bytes = frame_bytes(len(target))
        index = SourceIndex(source)
        aligned = [
            index.align(target, candidates=profile.candidates, gain_ahead_bytes=ahead).segments
            for ahead in profile.aheads
        ]
        self.segments = min(aligned, key=self._guess_diff) if len(aligned) > 1 else aligned[0]

    def put_before(self, before: bytes, extents: tuple[ByteRange, ...]) -> None:
        """Further bytes that compressed bytes may repeat, at some extents."""
        if not before:
            return
        source, sources = self.whole_prefix
        self.whole_prefix = source + before, (*sources, *extents)
        self.held_bytes += 2 * len(before)
        # A frame reads all that again, so it is not cut.
        self.soft_bytes = FRAME_ENCODED_BYTES_MAX

    def _guess_diff(self, segments: tuple[Segment, ...]) -> int:
        script = write_script(segments, self.source, self.target)
        return _guess(script.control, script.diff, script.extra)

    def encode(self, part: Half, offset: int) -> Iterator[EncodedFrame]:
        """One frame for a part of the window, or those of its halves where one would be too long."""
        first, partition = part.content_offset, part.partition
        end = first + partition.content_size
        halves = partition.halves(_SPLIT_BYTES_MIN)
        segments = cut(self.segments, first, end)
        content = self.target[first:end]
        script = write_script(segments, self.source, content)
        fits = len(script.control) <= CONTROL_BYTES_MAX
        if halves is None or (
            fits and _guess(script.diff, script.extra) <= _GUESS_FACTOR * self.soft_bytes
        ):
            best = self._smallest(content, offset, partition, segments)
            if halves is None and not self._is_held(best):
                best = self._data(content.tobytes(), offset, partition)
            if halves is None or (len(best.encoded) <= self.soft_bytes and self._is_held(best)):
                yield best
                return
        left, right = (Half(first + half.content_offset, half.partition) for half in halves)
        yield from self.encode(left, offset)
        yield from self.encode(right, offset + left.partition.target_size)

    def _is_held(self, one: EncodedFrame) -> bool:
        """Whether decoding holds no more than the whole window may; tables that changed all over
        have many numbers, of 16 bytes each."""
        frame = one.frame
        content = ByteRange(0, frame.content_size)
        held = frame_memory_bytes(frame.kind, content, frame.sources, frame.streams)
        return held <= self.held_bytes

    def _smallest(
        self, content: Bytes, offset: int, partition: Partition, segments: tuple[Segment, ...]
    ) -> EncodedFrame:
        plain = content.tobytes()
        diff = self._diff(content, offset, partition, segments) if segments else None
        # Compressing everything twice would double the build's time; zstd's quickest level is
        # within a factor of two of what LZMA makes of executables.
        share = 1.0 if diff is None else len(diff.encoded) / max(1, _guess(plain))
        found = [] if diff is None else [diff]
        over = self.profile.prefix_over
        is_new = share > _NEW_SHARE
        prefix, extents = self.whole_prefix if is_new else (self.source.tobytes(), self.sources)
        if over is not None and share > over and prefix and can_prefix():
            found.append(self._prefix(plain, offset, partition, prefix, extents))
        if is_new:
            found.append(self._data(plain, offset, partition))
        return min(found, key=_weight)

    def _prefix(
        self,
        plain: bytes,
        offset: int,
        partition: Partition,
        prefix: bytes,
        extents: tuple[ByteRange, ...],
    ) -> EncodedFrame:
        """The frame that compresses the content behind what stands at some extents."""
        encoded = compress_behind(plain, prefix, self.profile.long_level)
        frame = make_frame(
            FrameKind.PREFIX,
            ByteRange(offset, partition.target_size),
            sources=extents,
            digest=Digest.of(encoded),
            streams=(Stream(Codec.LZMA2_PREFIX, len(encoded), len(plain)),),
            parts=partition.frame_parts,
            outer=partition.frame_outer,
            owed=partition.owed,
        )
        return _proved(EncodedFrame(frame, encoded), prefix, plain)

    def _data(self, plain: bytes, offset: int, partition: Partition) -> EncodedFrame:
        stream, encoded = self._compress(plain)
        frame = make_frame(
            FrameKind.DATA,
            ByteRange(offset, partition.target_size),
            digest=Digest.of(encoded),
            streams=(stream,),
            parts=partition.frame_parts,
            outer=partition.frame_outer,
            owed=partition.owed,
        )
        return _proved(EncodedFrame(frame, encoded), b"", plain)

    def _diff(
        self, content: Bytes, offset: int, partition: Partition, segments: tuple[Segment, ...]
    ) -> EncodedFrame | None:
        """The smallest diff frame whose decoding holds no more than it may, or else than any; None
        where each would have too many numbers."""
        used, moved = _used_source(segments)
        source = np.concatenate([self.source[part.offset : part.end] for part in used])
        script = write_script(moved, source, content)
        joined = source.tobytes()
        extra = self._compress_extra(script.extra, joined)
        frames = (
            EncodedFrame(
                make_frame(
                    FrameKind.DIFF,
                    ByteRange(offset, partition.target_size),
                    sources=_in_image(used, self.sources),
                    digest=Digest.of(encoded),
                    streams=[stream for stream, _ in coded],
                    parts=partition.frame_parts,
                    outer=partition.frame_outer,
                    owed=partition.owed,
                ),
                encoded,
            )
            for coded, encoded in self._sparse(script.control, script.diff, extra)
        )
        first = next(frames, None)
        if first is None:
            return None
        best = next((one for one in chain((first,), frames) if self._is_held(one)), first)
        return _proved(best, joined, content.tobytes())

    def _compress_extra(self, extra: bytes, source: bytes) -> Coded:
        best = self._compress(extra)
        if (
            self.profile.prefix_over is not None
            and len(extra) * _PREFIX_SHARE > len(source)
            and can_prefix()
        ):
            encoded = compress_behind(extra, source, self.profile.long_level)
            if len(encoded) < len(best[1]):
                best = (Stream(Codec.LZMA2_PREFIX, len(encoded), len(extra)), encoded)
        return best

    def _sparse(
        self, control: bytes, diff: bytes, extra: Coded
    ) -> Iterator[tuple[tuple[Coded, Coded, Coded], bytes]]:
        """Streams of a diff frame and their bytes joined, with shorter and longer zero runs among
        the values: the smallest first, or what is guessed to be, none with too many numbers."""
        tried = [write_numbers(control, diff, zeros_min) for zeros_min in self.profile.zeros_min]
        tried = [one for one in tried if len(one[0]) <= NUMBERS_BYTES_MAX]
        if self.profile.guesses_zeros:
            tried.sort(key=lambda one: _guess(*one))
        coded = (
            (
                self._compress(numbers, contexts=_NUMBER_CONTEXTS),
                self._compress(values, contexts=_VALUE_CONTEXTS),
                extra,
            )
            for numbers, values in tried
        )
        joined = ((streams, b"".join(part for _, part in streams)) for streams in coded)
        if self.profile.guesses_zeros:
            yield from joined  # the next one is coded only if this one will not do
        else:
            yield from sorted(joined, key=lambda one: len(one[1]))

    def _compress(self, data: bytes, *, contexts: int | None = None) -> Coded:
        codecs, level = self.profile.codecs, None
        if len(data) > _SMALL_STREAM_BYTES:
            codecs, level = codecs[:1], self.profile.long_level
        codec, encoded = compress_smallest(data, codecs, level, contexts=contexts)
        return Stream(codec, len(encoded), len(data)), encoded


def _weight(one: EncodedFrame) -> float:
    """Bytes that it takes; a prefix that hardly pays is not worth reading it."""
    kept = _PREFIX_GAIN_MIN if one.frame.kind is FrameKind.PREFIX else 1.0
    return len(one.encoded) * kept


def _guess(*parts: bytes) -> int:
    """About how many bytes the parts take compressed."""
    return sum(len(compress(Codec.ZSTD, part, 1)) for part in parts)


def _used_source(
    segments: tuple[Segment, ...],
) -> tuple[tuple[ByteRange, ...], tuple[Segment, ...]]:
    """What segments read of the joined source, and the segments against just that, joined."""
    reads = sorted((segment.source, segment.source + segment.size) for segment in segments)
    merged: list[tuple[int, int]] = []
    for low, high in reads:
        if merged and low - merged[-1][1] <= _SOURCE_GAP_BYTES:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    lows = np.array([low for low, _ in merged])
    sizes = np.array([high - low for low, high in merged])
    bases = np.cumsum(sizes) - sizes
    moved = []
    for target, source, size in segments:
        index = int(np.searchsorted(lows, source, side="right")) - 1
        moved.append(Segment(target, int(bases[index]) + source - int(lows[index]), size))
    return tuple(ByteRange(low, high - low) for low, high in merged), tuple(moved)


def _in_image(used: tuple[ByteRange, ...], sources: tuple[ByteRange, ...]) -> tuple[ByteRange, ...]:
    """Ranges of the joined source as extents of the image; those that touch are joined."""
    extents: list[ByteRange] = []
    for part in used:
        base = 0
        for source in sources:
            low, high = max(part.offset, base), min(part.end, base + source.size)
            if low < high:
                extent = ByteRange(source.offset + low - base, high - low)
                if extents and extents[-1].end == extent.offset:
                    first = extents.pop().offset
                    extent = ByteRange(first, extent.end - first)
                extents.append(extent)
            base += source.size
    return tuple(extents)


def _proved(encoded: EncodedFrame, source: bytes, content: bytes) -> EncodedFrame:
    """The frame, which decodes to `content`; FormatError otherwise: a fault of this encoder."""
    if decode_frame(encoded.frame, encoded.encoded, source) != content:
        raise FormatError("encoder made a frame that decodes to something else")
    return encoded
