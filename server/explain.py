"""Which files a payload's bytes are for: every encoded byte is given to an owner.

A frame makes a range of the target. What it costs is shared among those who own its content, by
what they add: bytes that differ from the source, bytes that stand in no source, the places where
such stretches begin. A file that stands unchanged in the same frame costs nothing. How a frame's
bytes become content is known without its source; so none is needed.

Pure: an index, encoded bytes and owners in, sums out. Not here: whose bytes they are
(ownership.py), and what to say of it (reasons.py).
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, decompress
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Frame, FrameKind, Part, Parts
from slipstream.delta.payload import Index
from slipstream.delta.sparse import read_numbers
from slipstream.server.ownership import UNOWNED, Ownership, Stretch, fitted, share

ReadBody = Callable[[ByteRange], bytes]

_WHOLE = {FrameKind.DATA, FrameKind.PREFIX}  # compressed as they are
_NOWHERE = -1  # a place that no image has

_Marks = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Tally:
    """What one owner costs. Bytes, but for `places`.

    encoded    of the payload: what is fetched for it
    coded      of its content in frames that are coded at all; the rest is copied, or zeros
    places     where a stretch of differences begins, or an instruction
    differing  of the coded bytes, differ from the source bytes they are made of
    fresh      of these, stand in no source that was found
    alone      of the fresh ones, are in frames without any source
    behind     of the fresh ones, are compressed behind a source whose phrases they may repeat
    opened     of the coded ones, unpacked for the delta and packed again
    closed     of the coded ones, stand in compressed blocks that were not opened, by packing
    """

    encoded: int = 0
    coded: int = 0
    places: int = 0
    differing: int = 0
    fresh: int = 0
    alone: int = 0
    behind: int = 0
    opened: int = 0
    closed: Counter[Packing] = field(default_factory=Counter)

    @property
    def changed(self) -> int:
        """Content bytes that the payload brings."""
        return self.differing + self.fresh


def attribute(index: Index, read_body: ReadBody, owners: Ownership) -> dict[int, Tally]:
    """The tally of each owner that costs anything; encoded bytes add up to the body's size.

    `read_body` gives encoded bytes by their place in the body. Rejected for frames that are not
    what the index says; what reading raises.
    """
    tallies: defaultdict[int, Tally] = defaultdict(Tally)
    contents = _Contents(index.frames, owners)
    for frame, stretches in contents:
        if frame.encoded.size:
            _add(tallies, frame, stretches, read_body(frame.encoded))
    return dict(tallies)


class _Content(NamedTuple):
    """A stretch of a frame's content."""

    stretch: Stretch
    opened: bool


class _Contents:
    """The frames, each with the owners of its content.

    Content becomes middle bytes, and these become the target (repack.py). Outer parts may take
    middle bytes of later frames, so both are laid out from end to end, and matched by position.
    """

    def __init__(self, frames: Sequence[Frame], owners: Ownership) -> None:
        self._frames = frames
        self._owners = owners
        self._outer: list[tuple[Part, ByteRange]] = []  # with the target bytes it makes
        for frame in frames:
            offset = frame.target.offset
            for part in _outer_of(frame):
                self._outer.append((part, ByteRange(offset, part.packed_size)))
                offset += part.packed_size
        self._starts = list(accumulate((part.size for part, _ in self._outer), initial=0))
        self._long = _NOWHERE, 0  # of the long stream: where it begins, and its content so far

    def __iter__(self) -> Iterator[tuple[Frame, list[_Content]]]:
        position = 0
        for frame in self._frames:
            found: list[_Content] = []
            size = frame.content_size
            for part in frame.parts or ((Part(size, size),) if size else ()):
                found += self._of_part(part, position)
                position += part.packed_size
            yield frame, found

    def _of_part(self, part: Part, position: int) -> list[_Content]:
        """The owners of a part's content, whose middle bytes begin at `position`."""
        if part.recipe is None:  # what is dropped is the content of what comes next
            return self._middle(position, part.size)
        target = self._target(position, part.packed_size)
        begin, inside = self._long
        if part.begins:
            begin, inside = _NOWHERE if target is None else target.offset, 0
        if not part.is_whole:
            self._long = begin, inside + part.size
        if target is not None:
            stretches = self._owners.unpacked(target, part.size, begin, inside)
        else:
            packed = self._middle(position, part.packed_size)
            stretches = fitted([one.stretch for one in packed], part.size)
        return [_Content(one._replace(packing=None), opened=True) for one in stretches]

    def _target(self, position: int, size: int) -> ByteRange | None:
        """The target bytes that middle bytes are, as they are; None where they are packed again."""
        number = bisect_right(self._starts, position) - 1
        if number >= len(self._outer) or self._outer[number][0].recipe is not None:
            return None
        place = self._outer[number][1]
        return ByteRange(place.offset + position - self._starts[number], size)

    def _middle(self, position: int, size: int) -> list[_Content]:
        """The owners of middle bytes; no one has what lies behind the last."""
        found: list[_Content] = []
        end = position + size
        number = bisect_right(self._starts, position) - 1
        while position < end and number < len(self._outer):
            part, place = self._outer[number]
            inside = position - self._starts[number]
            taken = min(part.size - inside, end - position)
            if part.recipe is not None:
                whole = self._owners.unpacked(place, part.size)
                found += [_Content(one, True) for one in _cut(whole, inside, taken)]
            elif part.packed_size:
                at = ByteRange(place.offset + inside, taken)
                found += [_Content(one, False) for one in self._owners.standing(at)]
            else:
                found.append(_Content(Stretch(taken, UNOWNED), False))
            position += taken
            number += 1
        if position < end:
            found.append(_Content(Stretch(end - position, UNOWNED), False))
        return found


def _outer_of(frame: Frame) -> Parts:
    if frame.outer or not frame.target.size:
        return frame.outer
    return (Part(frame.target.size, frame.target.size),)


def _cut(stretches: Sequence[Stretch], begin: int, size: int) -> Iterator[Stretch]:
    """The stretches of `size` bytes from `begin` on."""
    position = 0
    for one in stretches:
        low, high = max(position, begin), min(position + one.size, begin + size)
        if low < high:
            yield one._replace(size=high - low)
        position += one.size


@dataclass(frozen=True, slots=True)
class _Added:
    """What a frame adds to its sources, for each byte of its content."""

    places: _Marks  # an instruction, or a stretch of differences, begins here
    differing: _Marks  # differs from the source byte
    fresh: _Marks  # of no source


def _add(
    tallies: defaultdict[int, Tally], frame: Frame, contents: Sequence[_Content], encoded: bytes
) -> None:
    """Share what a frame costs among the owners of its content."""
    added = _read(frame, encoded)
    ends = np.cumsum([one.stretch.size for one in contents])
    places, differing, fresh = (
        _sums(marks, ends) for marks in (added.places, added.differing, added.fresh)
    )
    weights = [fresh] if frame.kind in _WHOLE else [places, differing, fresh]
    sizes = [one.stretch.size for one in contents]
    costs = [
        share(stream.encoded_size, weight if any(weight) else sizes)
        for stream, weight in zip(frame.streams, weights, strict=True)
    ]
    for number, one in enumerate(contents):
        size, owner, packing = one.stretch
        tally = tallies[owner]
        tally.encoded += sum(cost[number] for cost in costs)
        tally.coded += size
        tally.places += places[number]
        tally.differing += differing[number]
        tally.fresh += fresh[number]
        if frame.kind is FrameKind.DATA:
            tally.alone += fresh[number]
        if frame.streams[-1].codec is Codec.LZMA2_PREFIX:
            tally.behind += fresh[number]
        if one.opened:
            tally.opened += size
        elif packing is not None:
            tally.closed[packing] += size


def _sums(marks: _Marks, ends: npt.NDArray[np.int64]) -> list[int]:
    """How many marks are set up to each end, from the end before."""
    totals = np.concatenate(([0], np.cumsum(marks, dtype=np.int64)))
    return [int(count) for count in np.diff(totals[ends], prepend=0)]


def _read(frame: Frame, encoded: bytes) -> _Added:
    """What an encoded frame says, checked; Rejected. A zero costs nothing, whatever the codec."""
    assert frame.digest is not None  # a frame with encoded bytes has one
    frame.digest.check(encoded, "frame", f"target bytes {frame.target.offset}..{frame.target.end}")
    offsets = accumulate((stream.encoded_size for stream in frame.streams), initial=0)
    decoded = [
        # Without the source all that could repeat it counts as fresh.
        b"\1" * stream.size
        if stream.codec is Codec.LZMA2_PREFIX
        else decompress(stream.codec, encoded[begin : begin + stream.encoded_size], stream.size)
        for begin, stream in zip(offsets, frame.streams, strict=False)
    ]
    size = frame.content_size
    if frame.kind in _WHOLE:
        nothing = np.zeros(size, np.bool_)
        return _Added(nothing, nothing, np.frombuffer(decoded[0], np.uint8) != 0)
    numbers, values, extra = decoded
    control, diff = read_numbers(numbers, values, size - len(extra))
    return _read_diff(control, diff, extra)


def _read_diff(control: bytes, diff: bytes, extra: bytes) -> _Added:
    """Instructions laid out over the content: add to source bytes, take fresh ones, in turns."""
    counts = np.frombuffer(control, "<u8").reshape(-1, 3)[:, :2]
    size = len(diff) + len(extra)
    # Each is looked at before any sum of them, which could overflow.
    if (counts > size).any() or counts.sum(axis=0).tolist() != [len(diff), len(extra)]:
        raise FormatError(
            "instructions do not use up diff and extra",
            expected=f"{len(diff)} and {len(extra)} bytes",
        )
    turns = counts.reshape(-1).astype(np.int64)
    taken = np.repeat(np.tile([False, True], len(counts)), turns)
    differing, fresh = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    differing[~taken] = np.frombuffer(diff, np.uint8) != 0
    fresh[taken] = np.frombuffer(extra, np.uint8) != 0
    places = differing.copy()
    places[1:] &= ~differing[:-1]
    begins = np.cumsum(turns) - turns
    places[begins[turns > 0]] = True
    return _Added(places, differing, fresh)
