"""What is opened of two images for a delta: two layers of packed bytes, in both.

First the blocks that stand in the images, then the streams that stand in the contents of such
blocks: an initrd in a squashfs. Of the target only what changed is opened, and packed again: a
block whose packed bytes stand in the source is copied as it is.
"""

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import Carved, carve_bytes, carve_files
from slipstream.delta.filemap import Entry, Extent, FileMap
from slipstream.delta.match import Run, RunKind
from slipstream.delta.unfold import OpenBlock, Opened, overlay
from slipstream.server.expand import Candidate, Opener, candidates
from slipstream.server.prove import commonest_recipes
from slipstream.server.workspace import WorkFiles, WorkSpace

AddressOf = Callable[[Extent], int | None]
Prove = Callable[[Sequence[OpenBlock], Mapping[str, int]], list[OpenBlock]]


@dataclass(frozen=True, slots=True)
class Opening:
    """What was opened; contents follow one another in the order of `groups`, and within them.

    groups           blocks of the source, of the target, then streams in them, of both
    outer, inner     blocks and streams of the target that are packed again
    equal            runs of target blocks that stand packed in the source
    addresses        where an extent of a source file, and of a target file, can be read
    """

    groups: tuple[list[OpenBlock], list[OpenBlock], list[OpenBlock], list[OpenBlock]]
    outer: Opened
    inner: Opened
    equal: list[Run]
    addresses: tuple[AddressOf, AddressOf]

    @property
    def sources(self) -> list[OpenBlock]:
        """All that was opened of the source."""
        return [*self.groups[0], *self.groups[2]]

    @property
    def targets(self) -> list[OpenBlock]:
        """All that was opened of the target."""
        return [*self.groups[1], *self.groups[3]]

    def without_inner(self) -> "Opening":
        """The same, but that streams in blocks are not packed again."""
        return replace(self, inner=Opened.of([one for one in self.inner.blocks if one.is_apart]))

    def first(self, share: float) -> "Opening":
        """The same, but that of the single blocks that are packed again only the first ones are.

        Streams that stand in the others stay packed with them.
        """
        single = [one for one in self.outer.blocks if not one.is_long]
        kept = {one.content.offset for one in single[: int(len(single) * share)]}
        blocks = [one for one in self.outer.blocks if one.is_long or one.content.offset in kept]
        return replace(self, outer=Opened.of(blocks))

    def changed(self, base: int) -> list[Run]:
        """Runs over all that is packed again, rising."""
        places = {one.packed[0] for one in self.outer.blocks}
        places |= {
            place
            for one in self.inner.blocks
            for place in (one.packed[:1] if one.is_apart else one.packed)
            if place.offset < self._contents
        }
        runs: list[Run] = []
        for place in sorted(places):
            begin = max(place.offset - base, runs[-1].end if runs else 0)
            if begin < place.end - base:
                runs.append(Run(RunKind.CHANGED, begin, place.end - base - begin))
        return runs

    @property
    def _contents(self) -> int:
        """Address behind both images."""
        first = [group[0].content.offset for group in self.groups if group]
        return min(first, default=0)


class ImageOpener:
    """Opens what a delta between two images needs."""

    def __init__(
        self,
        files: WorkFiles,
        opener: Opener,
        prove: Prove,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._files = files
        self._opener = opener
        self._prove = prove
        self._threads = threads

    def open(self, source_map: FileMap, target_map: FileMap, runs: Sequence[Run]) -> Opening:
        """Open both; `runs` say what of the target stands in the source as it is. OSError."""
        base = self._files.source_size
        with WorkSpace(self._files) as space:
            of_source = candidates(source_map.blocks, self._carved(space, source_map, 0), 0)
            of_target = candidates(target_map.blocks, self._carved(space, target_map, base), base)
            equal = self._equal_blocks(space, of_source, of_target)
            changed = _Changed(overlay(runs, equal), base)
            wanted = changed.of(of_target, target_map, base)
            if not wanted:
                nothing = Opened.of(())
                addresses = (_addresses(source_map, (), 0), _addresses(target_map, (), base))
                return Opening(([], [], [], []), nothing, nothing, equal, addresses)
            sources = self._opener.open(of_source, "unpack source")
            targets = [
                replace(
                    one,
                    end=max(place.end for place in one.places) - base,
                    is_apart=_is_apart(one),
                )
                for one in self._opener.open(wanted, "unpack target")
            ]
            addresses = (_addresses(source_map, sources, 0), _addresses(target_map, targets, base))
            streams = self._streams(space, source_map.entries, addresses[0])
            inner_sources = self._opener.open(streams, "unpack source")
            entries = [one for one in target_map.entries if _is_open(one, addresses[1])]
            known = {_digest_of(space, one.places) for one in streams}
            inner_targets = self._open_inner(space, entries, addresses[1], targets, known)
            targets = self._prove_outer(targets, inner_targets, changed, target_map)
        named = commonest_recipes([*targets, *inner_targets])
        again = [one for one in (*targets, *inner_targets) if one.recipe in named]
        within = {one.content.offset for one in inner_targets}
        outer, inner = (
            Opened.of(
                [one for one in again if (one.is_apart or one.content.offset in within) is is_in]
            )
            for is_in in (False, True)
        )
        blocks = {one.places[0].offset - base for one in outer.blocks}
        return Opening(
            (sources, targets, inner_sources, inner_targets),
            outer,
            inner,
            [run for run in equal if run.target not in blocks],
            addresses,
        )

    def _carved(self, space: WorkSpace, found: FileMap, base: int) -> Iterable[Carved]:
        """Compressed files that stand in the image as they are."""
        if not found.entries:
            size = self._files.target_size if base else self._files.source_size
            return carve_bytes(space, ByteRange(base, size))
        plain = [one for one in found.entries if not _is_packed(one)]
        return carve_files(space, plain, lambda extent: base + extent.place)

    def _streams(
        self, space: WorkSpace, entries: Iterable[Entry], address_of: AddressOf
    ) -> list[Candidate]:
        """Compressed files whose bytes stand, some at least, in the contents of blocks."""
        packed = [one for one in entries if _is_packed(one)]
        return candidates((), carve_files(space, packed, address_of), 0)

    def _open_inner(
        self,
        space: WorkSpace,
        entries: Sequence[Entry],
        address_of: AddressOf,
        targets: Sequence[OpenBlock],
        known: Container[bytes],
    ) -> list[OpenBlock]:
        """Streams in the target's blocks, with recipes, rising by what of the target they need.

        Not those of which the source has every byte, by the digests `known`: a file that is the same
        may share a block with one that is not, and is best left as it is packed.
        """
        made = _Made(targets, self._files)
        wanted = [
            one
            for one in self._streams(space, entries, address_of)
            if _digest_of(space, one.places) not in known
        ]
        wanted.sort(key=lambda one: made.end((one.places[0],)))
        opened = self._opener.open(wanted, "unpack target")
        placed = [replace(one, end=made.end(one.places)) for one in opened]
        return self._prove(placed, {})

    def _prove_outer(
        self,
        targets: Sequence[OpenBlock],
        inner: Sequence[OpenBlock],
        changed: "_Changed",
        target_map: FileMap,
    ) -> list[OpenBlock]:
        """The target's blocks, with recipes where they changed or hold a stream that did."""
        packed = [place for one in inner if one.recipe for place in one.packed]
        held = {content.offset for content in _within(packed, targets)}
        wanted = [
            one
            for one in targets
            if (len(one.places) == 1 or one.is_apart)
            and (one.content.offset in held or changed.has(one.places[0]))
        ]
        proved = {one.content.offset: one for one in self._prove(wanted, target_map.hints)}
        return [proved.get(one.content.offset, one) for one in targets]

    def _equal_blocks(
        self, space: WorkSpace, of_source: Sequence[Candidate], of_target: Sequence[Candidate]
    ) -> list[Run]:
        """Runs of target blocks, and of files in one place, whose packed bytes the source has."""
        base = self._files.source_size
        places: defaultdict[bytes, list[int]] = defaultdict(list)
        exact = _comparable(of_source)
        for place, digest in zip(exact, self._digests(space, exact), strict=True):
            places[digest].append(place.offset)
        runs: list[Run] = []
        exact = _comparable(of_target)
        for place, digest in zip(exact, self._digests(space, exact), strict=True):
            known = places.get(digest)
            if not known:
                continue
            last = runs[-1] if runs else None
            target = place.offset - base
            after = last.source + target - last.target if last else -1
            source = after if after in known else known[0]
            runs.append(Run(RunKind.EQUAL, target, place.size, source))
        return runs

    def _digests(self, space: WorkSpace, places: Sequence[ByteRange]) -> Iterator[bytes]:
        batches = [places[first : first + 64] for first in range(0, len(places), 64)]
        hashed = self._threads.map(partial(_digest_all, space), batches)
        return itertools.chain.from_iterable(hashed)


def _comparable(wanted: Iterable[Candidate]) -> list[ByteRange]:
    """Where the packed bytes of candidates stand, of those that stand in one place. Of several that may
    begin within a file the first."""
    found: list[ByteRange] = []
    for one in wanted:
        place = one.places[0]
        if len(one.places) == 1 and (one.exact or not found or place.offset >= found[-1].end):
            found.append(place)
    return found


def _digest_all(space: WorkSpace, places: Sequence[ByteRange]) -> list[bytes]:
    return [hashlib.sha256(space.read(one.offset, one.size)).digest() for one in places]


def _digest_of(space: WorkSpace, places: Iterable[ByteRange]) -> bytes:
    """SHA-256 of what stands at some places, joined."""
    state = hashlib.sha256()
    for place in places:
        state.update(space.read(place.offset, place.size))
    return state.digest()


def _is_packed(entry: Entry) -> bool:
    return any(extent.block is not None for extent in entry.extents)


def _is_apart(one: OpenBlock) -> bool:
    """Whether enough of a stream stands at its first place to pack all of it there."""
    return len(one.places) > 1 and not one.is_long and 2 * one.packed[0].size > one.packed_size


class _Changed:
    """What of the target is not known to stand in the source."""

    def __init__(self, runs: Sequence[Run], base: int) -> None:
        self._runs = [run for run in runs if run.kind is RunKind.CHANGED]
        self._starts = [base + run.target for run in self._runs]
        self._base = base

    def has(self, place: ByteRange) -> bool:
        """Whether a range of addresses of the target has a changed byte."""
        number = bisect_left(self._starts, place.end) - 1
        return number >= 0 and self._base + self._runs[number].end > place.offset

    def of(self, wanted: Sequence[Candidate], found: FileMap, base: int) -> list[Candidate]:
        """Candidates that changed, and the other blocks of files of which some did: a stream in
        a file can only be packed again as a whole."""
        packed = {
            found.blocks[extent.block].place.offset + base
            for entry in found.entries
            if any(self._has_extent(extent, found, base) for extent in entry.extents)
            for extent in entry.extents
            if extent.block is not None
        }
        return [
            one
            for one in wanted
            if one.places[0].offset in packed or any(self.has(place) for place in one.places)
        ]

    def _has_extent(self, extent: Extent, found: FileMap, base: int) -> bool:
        place = (
            ByteRange(extent.place, extent.size)
            if extent.block is None
            else found.blocks[extent.block].place
        )
        return self.has(ByteRange(base + place.offset, place.size))


def _is_open(entry: Entry, address_of: AddressOf) -> bool:
    """Whether all of a file can be read: some of it changed, or its blocks would not be open."""
    return all(address_of(extent) is not None for extent in entry.extents)


class _Made:
    """Which target bytes must be made before an address can be read."""

    def __init__(self, targets: Sequence[OpenBlock], files: WorkFiles) -> None:
        self._files = files
        self._starts = [one.content.offset for one in targets]
        self._ends = [one.end for one in targets]

    def end(self, places: Iterable[ByteRange]) -> int:
        """The end of what these places need, as an offset in the target."""
        return max(self._end(place) for place in places)

    def _end(self, place: ByteRange) -> int:
        if place.end <= self._files.base:
            return place.end - self._files.source_size
        return self._ends[bisect_right(self._starts, place.end - 1) - 1]


def _within(places: Iterable[ByteRange], blocks: Sequence[OpenBlock]) -> Iterator[ByteRange]:
    """The contents of blocks that share bytes with some places."""
    starts = [one.content.offset for one in blocks]
    for place in places:
        number = max(0, bisect_right(starts, place.offset) - 1)
        while number < len(blocks) and starts[number] < place.end:
            if blocks[number].content.overlaps(place):
                yield blocks[number].content
            number += 1


def _addresses(found: FileMap, opened: Sequence[OpenBlock], base: int) -> AddressOf:
    contents = {one.places[0].offset - base: one.content.offset for one in opened}
    by_block = [contents.get(block.place.offset) for block in found.blocks]

    def address(extent: Extent) -> int | None:
        if extent.block is None:
            return base + extent.place
        content = by_block[extent.block]
        return None if content is None else content + extent.place

    return address
