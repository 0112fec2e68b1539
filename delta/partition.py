"""How the content of a window becomes target bytes, and where the window may be cut (build machine).

A window is content that is aligned and coded together. What its frames say about packing follows
from here: which parts a stretch of the content has, and which stretches can be frames of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slipstream.delta.frame import Part
from slipstream.delta.limits import KIB
from slipstream.delta.packing.recipe import Packer

_GRAIN_BYTES = 4 * KIB  # plain stretches are cut at a multiple of it


@dataclass(frozen=True, slots=True)
class Cut:
    """A place inside a long stream's part: so much content, and so many packed bytes, before it."""

    content: int
    packed: int


@dataclass(frozen=True, slots=True)
class Partition:
    """The parts of a window, in order. `cuts` are those of a long stream, which stands alone."""

    parts: tuple[Part, ...]
    cuts: tuple[Cut, ...] = ()

    @property
    def content_size(self) -> int:
        """Bytes of the window's content."""
        return sum(part.size for part in self.parts)

    @property
    def target_size(self) -> int:
        """Target bytes that the window makes."""
        return sum(part.packed_size for part in self.parts)

    @property
    def frame_parts(self) -> tuple[Part, ...]:
        """The parts as a frame says them: none where the content is the target."""
        return self.parts if any(_is_packed(part) for part in self.parts) else ()

    def halves(self, size_min: int) -> "tuple[Half, Half] | None":
        """Two partitions of about equal content, neither below `size_min`; None where none fit."""
        middle = self.content_size // 2
        for place in sorted(self._places(), key=lambda one: (abs(one.content - middle), one)):
            if size_min <= place.content <= self.content_size - size_min:
                return self._split(place)
        return None

    def _places(self) -> Iterator["_Place"]:
        if len(self.parts) == 1 and not self.parts[0].is_whole:
            for cut in self.cuts:
                yield _Place(cut.content, 0, cut.content)
            return
        offset = 0
        middle = self.content_size // 2
        for index, part in enumerate(self.parts):
            dropped = index and not part.packed_size
            if offset and not dropped:
                yield _Place(offset, index, 0)
            inside = (middle - offset) // _GRAIN_BYTES * _GRAIN_BYTES
            if not _is_packed(part) and 0 < inside < part.size:
                yield _Place(offset + inside, index, inside)
            offset += part.size

    def _split(self, place: "_Place") -> "tuple[Half, Half]":
        before, after = self.parts[: place.index], self.parts[place.index + 1 :]
        part = self.parts[place.index]
        if not part.is_whole:
            cut = next(cut for cut in self.cuts if cut.content == place.content)
            return _split_long(self, part, cut)
        if place.inside:
            rest = part.size - place.inside
            left = (*before, Part(place.inside, place.inside))
            right = (Part(rest, rest), *after)
            return Half(0, Partition(left)), Half(place.content, Partition(right))
        left = before
        ahead = ahead_bytes(before[-1])
        if ahead:
            # The last encoder of the left half looks at content of the right half.
            left = (*before, Part(min(ahead, self.content_size - place.content), 0))
        return Half(0, Partition(left)), Half(place.content, Partition((part, *after)))


@dataclass(frozen=True, slots=True)
class Half:
    """A part of a window: where its content begins within the window's."""

    content_offset: int
    partition: Partition


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    content: int
    index: int  # of the part that begins or is cut there
    inside: int  # bytes of it that stand before


def _is_packed(part: Part) -> bool:
    return part.recipe is not None or not part.packed_size


def ahead_bytes(part: Part) -> int:
    """How many bytes behind its content the encoder of a part looks at."""
    if part.recipe is None or part.recipe.packer is not Packer.LZ4_DEST:
        return 0
    return part.recipe.parameters[1]


def _split_long(whole: Partition, part: Part, cut: Cut) -> tuple[Half, Half]:
    left = Part(cut.content, cut.packed, part.recipe, part.begins, ends=False)
    right = Part(
        part.size - cut.content,
        part.packed_size - cut.packed,
        part.recipe,
        begins=False,
        ends=part.ends,
    )
    before = tuple(one for one in whole.cuts if one.content < cut.content)
    behind = tuple(
        Cut(one.content - cut.content, one.packed - cut.packed)
        for one in whole.cuts
        if one.content > cut.content and one.packed > cut.packed
    )
    return Half(0, Partition((left,), before)), Half(cut.content, Partition((right,), behind))


def usable_cuts(cuts: Sequence[Cut], part: Part) -> tuple[Cut, ...]:
    """The cuts inside a part that leave packed bytes on both sides, rising in both."""
    inside = [
        cut for cut in cuts if 0 < cut.content < part.size and 0 < cut.packed < part.packed_size
    ]
    return tuple(
        after
        for before, after in pairwise([Cut(0, 0), *inside])
        if after.content > before.content and after.packed > before.packed
    )
