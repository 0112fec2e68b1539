"""The plan of a delta: what is equal, what is opened, which windows are coded from which sources.

The shell around delta/'s pure planners: it reads images, runs threads for scans and the pool for
unpacking. The output depends on the images, the profile and the memory alone.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TypeAlias

from slipstream.delta.anchors import (
    ANCHOR_BYTES,
    Anchors,
    find_anchors,
    join_anchors,
    pair_anchors,
)
from slipstream.delta.budget import MemoryBudget
from slipstream.delta.byterange import ByteRange, merge_ranges
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.filemap import Entry, EntryKind, Extent, FileMap
from slipstream.delta.filesystem.cpio import read_cpio
from slipstream.delta.filesystem.probe import read_filesystem
from slipstream.delta.limits import FRAME_TABLE_BYTES_MAX, FRAMES_MAX, KIB, MIB
from slipstream.delta.match import (
    Run,
    RunKind,
    join_zeros,
    match_grains,
    verify_runs,
)
from slipstream.delta.moved import MovedBlock, MovedSource
from slipstream.delta.profile import Profile
from slipstream.delta.readable import Readable
from slipstream.delta.similar import SimilarFiles
from slipstream.delta.unfold import OpenBlock, Window, overlay, unfold
from slipstream.delta.windows import (
    Piece,
    SourceFinder,
    plan_pieces,
    settle,
    unclaimed_source,
)
from slipstream.server.expand import Opener
from slipstream.server.fitting import TableNeeds
from slipstream.server.image import ImageFile
from slipstream.server.lacking import lacking_memory
from slipstream.server.moving import MovedView, Moving, move_modules
from slipstream.server.opening import ImageOpener, Opening
from slipstream.server.placed_file import Space, TakenPlaces
from slipstream.server.pool import Pool
from slipstream.server.programs import move_programs
from slipstream.server.progress import Progress, Say, told
from slipstream.server.prove import prove
from slipstream.server.scan import Scan
from slipstream.server.workspace import WorkFiles, WorkSpace

_Entries: TypeAlias = tuple[Sequence[Entry], Sequence[Entry]]  # of source and target

_PIECE_BYTES = 4 * MIB  # searched for anchors at a time
ZERO_BYTES_MIN = 64 * KIB  # shorter zero runs are cheaper inside their neighbours


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """What is to be coded; `blocks` are all that were opened, in the order of their contents, which
    is that of the payload's streams; `windows` says how much of a long one a cursor keeps. `moving`
    are files of the source, which follow the blocks."""

    pieces: list[Piece]
    blocks: list[OpenBlock]
    windows: dict[int, int]
    notes: list[str]
    moving: Moving = field(default_factory=Moving)


class DeltaPlanner:
    """Plans one delta. `files` name the images and the scratch file, which is open for writing."""

    def __init__(
        self,
        source: ImageFile,
        target: ImageFile,
        files: WorkFiles,
        scratch: IO[bytes],
        profile: Profile,
        pool: Pool,
        threads: ThreadPoolExecutor,
        on_progress: Progress,
        say: Say,
    ) -> None:
        self._source = source
        self._target = target
        self._files = files
        self._profile = profile
        self._pool = pool
        self._threads = threads
        self._on_progress = on_progress
        self._say = say
        self._opener = Opener(files, scratch, pool, on_progress)
        self._images = ImageOpener(files, self._opener, self._prove, threads)

    def plan(self, source_scan: Scan, target_scan: Scan) -> DeltaPlan:
        """The plan, from one scan of each image. UsageError, OSError."""
        of_source, of_target = self._threads.map(read_filesystem, (self._source, self._target))
        maps = (of_source, of_target)
        for side, image, one in zip(
            ("source", "target"), (self._source, self._target), maps, strict=True
        ):
            for note in one.notes:
                self._say(f"{side} {image.path}: {note}")
        found = match_grains(source_scan.hashes, target_scan.hashes)
        joined = join_zeros(found, source_scan.hashes, ZERO_BYTES_MIN)
        opening = self._images.open(of_source, of_target, joined)
        lacking = lacking_memory(
            opening.targets, self._files.source_size, self._profile.device_bytes
        )
        closed_notes = [f"target {self._target.path}: {line}" for line in lacking]
        entries = self._entries(maps, opening)
        moving = self._move(entries, opening)
        opening, budget, closed, moved = self._within_memory(opening, moving.blocks)
        blocks = [one for group in opening.groups for one in group]
        while True:
            pieces, windows = self._pieces(
                opening, budget, closed, joined, entries, MovedSource(moved)
            )
            needs = TableNeeds.of(pieces, [*blocks, *moving.blocks], moving.shifts)
            if not needs.fits:  # what frames may repeat besides their sources is given up first
                pieces = [piece._replace(before=()) for piece in pieces]
                needs = TableNeeds.of(pieces, [*blocks, *moving.blocks], moving.shifts)
            single = sum(not one.is_long for one in opening.outer.blocks)
            if needs.fits or not single:
                break
            opening = opening.first(needs.share)
            left = sum(not one.is_long for one in opening.outer.blocks)
            closed_notes.append(
                f"more blocks changed than a payload's table has room for: {single - left} of"
                f" {single} are coded as they are packed"
            )
        if not needs.fits:
            raise UsageError(
                "more changed than a payload's table has room for",
                expected=f"at most {FRAMES_MAX} frames, {FRAME_TABLE_BYTES_MAX} bytes",
                got=f"about {needs.frames} frames, {needs.size_bytes} bytes",
                hint="Publish it without a delta",
            )
        return DeltaPlan(pieces, blocks, windows, closed_notes, moving)

    def _pieces(
        self,
        opening: Opening,
        budget: MemoryBudget,
        closed: frozenset[int],
        joined: Sequence[Run],
        entries: _Entries,
        moved: MovedSource,
    ) -> tuple[list[Piece], dict[int, int]]:
        """What is to be coded of what was opened, and how much of long streams cursors keep."""
        runs = overlay(joined, opening.equal)
        runs = overlay(runs, opening.changed(self._files.source_size))
        settled = settle(runs, self._target.size, self._profile.absorb_bytes)
        # What the comparison refuses (never seen) is changed after all.
        settled = settle(self._verify(settled), self._target.size, self._profile.absorb_bytes)
        windows = budget.kept_windows(opening.sources, opening.targets, closed)
        base = self._files.source_size
        readable = Readable(base, opening.groups, windows, closed, budget.cursors_bytes)
        changed = {
            run.target: self._windows(run, opening, budget)
            for run in settled
            if run.kind is RunKind.CHANGED
        }
        with WorkSpace(self._files) as space:
            finder = self._finder(runs, settled, changed, entries, opening, readable, space, moved)
            pieces = []
            for piece in plan_pieces(
                settled, lambda run: changed[run.target], finder, budget.copy_bytes
            ):
                pieces.append(piece)
                self._on_progress("match", piece.target.end, self._target.size)
        return pieces, windows

    def _entries(self, maps: tuple[FileMap, FileMap], opening: Opening) -> _Entries:
        """All files of both images, with those in what was opened."""
        with WorkSpace(self._files) as space:
            return (
                [*maps[0].entries, *_inside(opening.sources, space, 0)],
                [*maps[1].entries, *_inside(opening.targets, space, self._files.source_size)],
            )

    def _move(self, entries: _Entries, opening: Opening) -> Moving:
        """Files of the source that are moved, at addresses behind all that was opened."""
        keep, taken = self._opener.keep, TakenPlaces()
        with WorkSpace(self._files) as space:
            moving = move_modules(entries, opening.addresses, space, keep, taken, self._on_progress)
            if self._profile.moves_programs:
                moving = move_programs(
                    moving,
                    entries,
                    opening.addresses,
                    space,
                    keep,
                    taken,
                    self._threads,
                    self._on_progress,
                )
        self._opener.flush()
        return moving

    def _within_memory(
        self, opening: Opening, moved: Sequence[MovedBlock]
    ) -> tuple[Opening, MemoryBudget, frozenset[int], list[MovedBlock]]:
        """What can be made of it with the memory of the device, what is never read, and what is
        moved.

        Blocks are worth more than moved files in them, and these than other streams in them, each of
        which takes as much memory once more.
        """
        budget = MemoryBudget(self._profile)
        outer = [one for group in opening.groups[:2] for one in group]
        inner = [one for group in opening.groups[2:] for one in group]
        depths = [_depth(one, opening) for one in moved]
        tries = []
        for streams, nested in ((inner, 2), ([], 1)) if inner else (([], 1),):
            held = [one for one, depth in zip(moved, depths, strict=True) if depth <= nested + 1]
            for some in (held, []) if held else ([],):
                depth = max((nested, *(_depth(one, opening) for one in some)))
                left, too_large = budget.with_blocks([*outer, *streams], depth, some)
                tries.append((streams, left, too_large, some))
        streams, left, too_large, some = next(
            (one for one in tries if not one[2]), min(tries[-2:], key=lambda one: len(one[2]))
        )
        if streams or not inner:
            closed = too_large
        else:
            opening = opening.without_inner()
            closed = too_large.union(one.content.offset for one in inner)
        shut = [one.content for one in (*outer, *inner) if one.content.offset in closed]
        read = [
            one
            for one in some
            if one.content.offset not in closed
            and not any(place.overlaps(other) for place in one.places for other in shut)
        ]
        return opening, left, closed, read

    def _prove(self, blocks: Sequence[OpenBlock], hints: Mapping[str, int]) -> list[OpenBlock]:
        return prove(
            blocks,
            self._opener.end,
            hints,
            MemoryBudget(self._profile),
            self._files,
            self._pool,
            self._on_progress,
        )

    def _verify(self, runs: list[Run]) -> list[Run]:
        batches = [runs[first : first + 64] for first in range(0, len(runs), 64)]
        checked = self._threads.map(
            lambda batch: list(verify_runs(batch, self._source, self._target)), batches
        )
        return list(itertools.chain.from_iterable(checked))

    def _windows(self, run: Run, opening: Opening, budget: MemoryBudget) -> list[Window]:
        """The windows of a run. Blocks that cannot be packed again within the budget stay packed:
        long ones that cannot be cut finely enough, or such with a large packer."""
        outer, inner = opening.outer, opening.inner
        while True:
            windows = list(
                unfold(
                    run,
                    outer,
                    inner,
                    self._files.source_size,
                    self._profile.window_bytes,
                    budget.long_window_bytes,
                )
            )
            too_large = [
                content
                for one in windows
                if one.partition.frame_parts and budget.cursors_bytes(one) < 0
                for content in one.content
            ]
            if not too_large:
                return windows
            outer, inner = (one.without(too_large) for one in (outer, inner))

    def _finder(
        self,
        runs: Sequence[Run],
        settled: Sequence[Run],
        changed: dict[int, list[Window]],
        entries: _Entries,
        opening: Opening,
        may_read: Readable,
        space: WorkSpace,
        moved: MovedSource,
    ) -> SourceFinder:
        contents = merge_ranges(
            content for group in changed.values() for one in group for content in one.content
        )
        readable = merge_ranges(
            (
                *unclaimed_source(settled, self._source.size),
                *(one.content for one in opening.sources),
            )
        )
        target_anchors = self._anchors(space, contents, "index target")
        source_anchors = self._anchors(MovedView(space, moved), readable, "index source")
        pairs = pair_anchors(join_anchors((source_anchors, target_anchors)), target_anchors)
        similar = SimilarFiles(*entries, *opening.addresses, pairs.shifts)
        return SourceFinder(runs, pairs, similar.ranges, may_read, self._profile, moved)

    def _anchors(self, space: Space, ranges: Iterable[ByteRange], what: str) -> Anchors:
        pieces = [
            (offset, min(_PIECE_BYTES + ANCHOR_BYTES - 1, part.end - offset))
            for part in ranges
            for offset in range(part.offset, part.end, _PIECE_BYTES)
        ]
        found = self._threads.map(
            lambda piece: find_anchors(space.read(piece[0], piece[1]), piece[0]), pieces
        )
        total = sum(size for _, size in pieces)
        return join_anchors(
            told(found, (size for _, size in pieces), what, total, self._on_progress)
        )


def _depth(block: MovedBlock, opening: Opening) -> int:
    """How deep a moved block is nested: 1 for a module that stands in the image as it is."""
    deepest = 1
    for nested, group in ((2, opening.groups[0]), (3, opening.groups[2])):
        if group:
            contents = ByteRange(
                group[0].content.offset, group[-1].content.end - group[0].content.offset
            )
            if any(map(contents.overlaps, block.places)):
                deepest = nested
    return deepest


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of an opened block, as a Reader."""

    space: WorkSpace
    content: ByteRange

    @property
    def size(self) -> int:
        return self.content.size

    def read(self, offset: int, size: int) -> bytes:
        return self.space.read(self.content.offset + offset, size)


def _inside(opened: Iterable[OpenBlock], space: WorkSpace, base: int) -> Iterator[Entry]:
    """What was opened inside files, as files: each content, and those of an archive in it.

    Their places count from `base`, as all places of an entry do.
    """
    for block in opened:
        if not block.name:
            continue
        content = block.content
        whole = Extent(0, content.size, content.offset - base)
        yield Entry(EntryKind.FILE, block.name, content.size, (whole,))
        with suppress(FormatError):
            for name, offset, size in read_cpio(_Content(space, content)):
                place = content.offset + offset - base
                yield Entry(EntryKind.FILE, name, size, (Extent(0, size, place),))
