"""How the content of a window becomes target bytes, and where it may be cut (build machine).

A window is content that is aligned and coded together. What its frames say about packing follows
from here: which parts a stretch of the content has, and which stretches can be frames of their own.
Content becomes middle bytes by `parts`, and these become target bytes by `outer`, as in frame.py.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slipstream.delta.frame import Part, Parts, packed_size
from slipstream.delta.limits import KIB

_GRAIN_BYTES = 4 * KIB  # plain stretches are cut at a multiple of it
_STEP_BYTES = 64 * KIB  # and into windows at a multiple of this


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """A place inside a long part: so much content, and so many packed bytes, before it."""

    content: int
    packed: int


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a partition may be cut: so much content, and so many middle bytes, before it."""

    content: int
    middle: int


@dataclass(frozen=True, slots=True)
class Partition:
    """Parts of both stages, in order. Without `outer` parts the middle bytes are the target.

    `long` is the number of the part that may be cut, at `cuts`; -1 where there is none. `owed` are
    the first middle bytes, which go to an outer part before.
    """

    parts: Parts
    outer: Parts = ()
    cuts: tuple[Cut, ...] = ()
    long: int = -1
    owed: int = 0

    @property
    def content_size(self) -> int:
        """Bytes of the content."""
        return sum(part.size for part in self.parts)

    @property
    def target_size(self) -> int:
        """Target bytes that it makes."""
        if self.owed:
            return packed_size(self.outer, 0)
        return packed_size(self.outer, packed_size(self.parts, 0))

    @property
    def long_part(self) -> Part | None:
        """The part of a stream that may be packed over several frames."""
        return self.parts[self.long] if self.long >= 0 else None

    @property
    def long_content(self) -> range:
        """Where the content of that part lies in the whole content; empty where there is none."""
        if self.long < 0:
            return range(0)
        begin = sum(part.size for part in self.parts[: self.long])
        return range(begin, begin + self.parts[self.long].size)

    @property
    def frame_parts(self) -> Parts:
        """The parts as a frame says them: none where all stand as they are."""
        return self.parts if any(_is_packed(part) for part in self.parts) else ()

    @property
    def frame_outer(self) -> Parts:
        """The outer parts as a frame says them."""
        return self.outer if self.owed or any(_is_packed(part) for part in self.outer) else ()

    def halves(self, size_min: int) -> "tuple[Half, Half] | None":
        """Two partitions of about equal content, neither below `size_min`; None where none fit."""
        middle = self.content_size // 2
        fits = [
            place
            for place in self.places(around=middle)
            if size_min <= place.content <= self.content_size - size_min
        ]
        if not fits:
            return None
        left, right = self.split([min(fits, key=lambda one: (abs(one.content - middle), one))])
        return left, right

    def places(self, around: int | None = None) -> Iterator[Place]:
        """All places inside at which both stages may be cut, rising.

        Plain stretches may be cut anywhere: of these places every _STEP_BYTES are given, or,
        with `around`, the one nearest before that content offset.
        """
        outer = _Edges(self.outer)
        content = middle = 0
        for number, part in enumerate(self.parts):
            plain = 0 if _is_packed(part) else part.size
            if number and part.packed_size and outer.may_cut(middle - self.owed, plain):
                yield Place(content, middle)
            for place in self._inside(number, content, middle, outer, around):
                left = content + plain - place.content
                # A long stream may go on in the middle of an outer part, which then waits for it.
                if number == self.long or outer.may_cut(place.middle - self.owed, left):
                    yield place
            content += part.size
            middle += part.packed_size

    def _inside(
        self, number: int, content: int, middle: int, outer: "_Edges", around: int | None
    ) -> Iterator[Place]:
        """Places inside one part, by this stage."""
        part = self.parts[number]
        if number == self.long:
            for cut in self.cuts:
                yield Place(content + cut.content, middle + cut.packed)
        if _is_packed(part):
            return
        steps: Sequence[int] = range(_STEP_BYTES, part.size, _STEP_BYTES)
        if around is not None:
            near = (around - content) // _GRAIN_BYTES * _GRAIN_BYTES
            steps = [near] if 0 < near < part.size else []
        first = middle - self.owed
        edges = [edge - first for edge in outer.between(first, first + part.size)]
        for step in sorted({*steps, *edges}):
            yield Place(content + step, middle + step)

    def split(self, places: Sequence[Place]) -> "list[Half]":
        """The stretches between the given places, rising ones of `places`."""
        if not places:
            return [Half(0, self)]
        # From the middle: a run of the size of the image has thousands of parts and windows.
        number = len(places) // 2
        at = places[number]
        left, right = self._cut(at)
        behind = [
            Place(one.content - at.content, one.middle - at.middle) for one in places[number + 1 :]
        ]
        return left.split(places[:number]) + [
            Half(at.content + half.content_offset, half.partition) for half in right.split(behind)
        ]

    def _cut(self, at: Place) -> "tuple[Partition, Partition]":
        left, right = _cut_parts(self.parts, at.content, self.cuts)
        before, behind = left, right
        outer_left: Parts = ()
        outer_right: Parts = ()
        owed = max(0, self.owed - at.middle)
        if self.outer and not owed:
            outer_left, outer_right, owed = _cut_outer(self.outer, at.middle - self.owed)
            before, behind = outer_left or left, outer_right
        elif self.outer:
            outer_right = self.outer
        ahead = 0 if owed else min(before[-1].ahead_bytes, sum(part.size for part in behind))
        cuts_left, cuts_right = self._cut_cuts(at)
        long_left = self.long if self.long < len(left) else -1
        long_right = self.long - (len(self.parts) - len(right))
        if ahead:
            # The last encoder of the left side looks at content of the right side.
            left = (*left, Part(ahead, ahead if self.outer else 0))
            outer_left = (*outer_left, Part(ahead, 0)) if self.outer else ()
        return (
            Partition(left, outer_left, cuts_left, long_left, self.owed),
            Partition(right, outer_right, cuts_right, max(-1, long_right), owed),
        )

    def _cut_cuts(self, at: Place) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
        inside = at.content - self.long_content.start
        size = len(self.long_content)
        if self.long < 0 or inside <= 0:
            return (), self.cuts
        if inside >= size:
            return self.cuts, ()
        number = bisect_left(self.cuts, inside, key=lambda one: one.content)
        first = self.cuts[number]
        right = tuple(
            Cut(cut.content - first.content, cut.packed - first.packed)
            for cut in self.cuts[number + 1 :]
        )
        return self.cuts[:number], right


@dataclass(frozen=True, slots=True)
class Half:
    """A stretch of a partition: where its content begins within the whole's."""

    content_offset: int
    partition: Partition


def cut_windows(whole: Partition, window_bytes: int, long_window_bytes: int) -> list[Half]:
    """Stretches of at most `window_bytes` of content, or `long_window_bytes` where they hold some of
    the long part; longer ones only where there is no place nearer."""
    chosen: list[Place] = []
    begin = Place(0, 0)
    best: Place | None = None
    long = whole.long_content
    for place in (*whole.places(), Place(whole.content_size, 0)):
        while place.content > begin.content:
            is_long = begin.content < long.stop and place.content > long.start
            limit = long_window_bytes if is_long else window_bytes
            if place.content - begin.content <= limit:
                best = place
                break
            chosen.append(best or place)
            begin, best = chosen[-1], None
    if chosen and chosen[-1].content == whole.content_size:
        chosen.pop()
    return whole.split(chosen)


class _Edges:
    """Where outer parts may be cut, by middle bytes before it."""

    def __init__(self, parts: Parts) -> None:
        self._starts: list[int] = []
        self._parts = parts
        position = 0
        for part in parts:
            self._starts.append(position)
            position += part.size

    def between(self, first: int, end: int) -> list[int]:
        """The edges of parts strictly between two places."""
        return self._starts[bisect_right(self._starts, first) : bisect_left(self._starts, end)]

    def may_cut(self, place: int, plain: int) -> bool:
        """Whether there may be a cut, behind which the stage before has `plain` bytes that stand as
        they are."""
        if not self._parts:
            return True
        number = bisect_right(self._starts, place) - 1
        part = self._parts[number]
        if self._starts[number] != place:
            return not _is_packed(part)
        # What is dropped belongs to the part before; what that looks at must be had as it is.
        return bool(part.packed_size) and (
            number == 0 or self._parts[number - 1].ahead_bytes <= plain
        )


def _is_packed(part: Part) -> bool:
    return part.recipe is not None or not part.packed_size


def _cut_parts(parts: Parts, at: int, cuts: tuple[Cut, ...]) -> tuple[Parts, Parts]:
    """Parts before and behind `at` bytes that go in."""
    position = 0
    for number, part in enumerate(parts):
        inside = at - position
        if inside == 0 and part.packed_size:
            return parts[:number], parts[number:]
        if inside < part.size:
            left, right = _cut_part(part, inside, cuts)
            return (*parts[:number], left), (right, *parts[number + 1 :])
        position += part.size
    raise AssertionError("a place behind all parts")


def _cut_outer(parts: Parts, at: int) -> tuple[Parts, Parts, int]:
    """Outer parts before and behind `at` bytes that go in, and how many of the last one before are
    missing: a packed one is never cut."""
    position = 0
    for number, part in enumerate(parts):
        inside = at - position
        if inside < part.size and inside > 0 and _is_packed(part):
            return parts[: number + 1], parts[number + 1 :], part.size - inside
        if inside <= part.size:
            break
        position += part.size
    return *_cut_parts(parts, at, ()), 0


def _cut_part(part: Part, at: int, cuts: tuple[Cut, ...]) -> tuple[Part, Part]:
    if part.recipe is None:
        return Part(at, at), Part(part.size - at, part.size - at)
    cut = cuts[bisect_left(cuts, at, key=lambda one: one.content)]
    return (
        Part(at, cut.packed, part.recipe, part.begins, ends=False),
        Part(part.size - at, part.packed_size - cut.packed, part.recipe, False, part.ends),
    )
