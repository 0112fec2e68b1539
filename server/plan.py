"""The plan of a delta: what is equal, what is opened, which windows are coded from which sources.

The shell around delta/'s pure planners: it reads images, runs threads for scans and the pool for
unpacking. The output depends on the images, the profile and the memory alone.
"""

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np

from slipstream.delta.anchors import (
    ANCHOR_BYTES,
    Anchors,
    find_anchors,
    join_anchors,
    pair_anchors,
)
from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import carve
from slipstream.delta.encode import CURSOR_WINDOW_BYTES, Profile
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, Extent, FileMap
from slipstream.delta.filesystem.cpio import read_cpio
from slipstream.delta.filesystem.probe import read_filesystem
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.match import (
    Reader,
    Run,
    RunKind,
    join_zeros,
    match_grains,
    verify_runs,
)
from slipstream.delta.packing.recipe import pack_memory_bytes
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
from slipstream.server.expand import Candidate, Opener, candidates
from slipstream.server.image import ImageFile
from slipstream.server.pool import Pool
from slipstream.server.progress import Progress, told
from slipstream.server.prove import prove
from slipstream.server.scan import Scan
from slipstream.server.workspace import WorkFiles, WorkSpace

_PIECE_BYTES = 4 * MIB  # searched for anchors at a time
ZERO_BYTES_MIN = 64 * KIB  # shorter zero runs are cheaper inside their neighbours


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """What is to be coded; `sources` and `targets` are the opened blocks, whose contents are read
    by number of the payload's streams; `windows` says how much of a long one a cursor keeps."""

    pieces: list[Piece]
    sources: list[OpenBlock]
    targets: list[OpenBlock]
    windows: dict[int, int]
    notes: list[str]


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
    ) -> None:
        self._source = source
        self._target = target
        self._files = files
        self._profile = profile
        self._pool = pool
        self._threads = threads
        self._on_progress = on_progress
        self._opener = Opener(files, scratch, pool, on_progress)

    def plan(self, source_scan: Scan, target_scan: Scan) -> DeltaPlan:
        """The plan, from one scan of each image. UsageError, OSError."""
        of_source, of_target = self._threads.map(read_filesystem, (self._source, self._target))
        found = match_grains(source_scan.hashes, target_scan.hashes)
        joined = join_zeros(found, source_scan.hashes, ZERO_BYTES_MIN)
        sources, targets, equal = self._open(of_source, of_target, joined)
        runs = overlay(overlay(joined, equal), self._opened_runs(targets))
        settled = settle(runs, self._target.size, self._profile.absorb_bytes)
        # What the comparison refuses (never seen) is changed after all.
        settled = settle(self._verify(settled), self._target.size, self._profile.absorb_bytes)
        windows = self._cursor_windows(sources, targets)
        opened = [one for one in targets if one.recipe is not None]
        changed = {
            run.target: self._windows(run, opened) for run in settled if run.kind is RunKind.CHANGED
        }
        with WorkSpace(self._files) as space:
            maps = (of_source, of_target)
            finder = self._finder(runs, settled, changed, maps, sources, targets, windows, space)
            pieces = []
            for piece in plan_pieces(settled, lambda run: changed[run.target], finder):
                pieces.append(piece)
                self._on_progress("match", piece.target.end, self._target.size)
        notes = [
            f"{side}: {note}"
            for side, one in zip(("source", "target"), maps, strict=True)
            for note in one.notes
        ]
        return DeltaPlan(pieces, sources, targets, windows, notes)

    def _open(
        self, source_map: FileMap, target_map: FileMap, runs: Sequence[Run]
    ) -> tuple[list[OpenBlock], list[OpenBlock], list[Run]]:
        """Opened blocks of both images, and runs of target blocks that stand packed in the source."""
        of_source = candidates(source_map.blocks, carve(self._source, source_map), 0)
        of_target = candidates(
            target_map.blocks, carve(self._target, target_map), self._files.source_size
        )
        equal = self._equal_blocks(of_source, of_target)
        wanted = _changed(of_target, equal, runs, self._files.source_size)
        if not wanted:
            return [], [], equal
        sources = self._opener.open(of_source, "unpack source")
        targets = self._opener.open(wanted, "unpack target")
        end = targets[-1].content.end if targets else self._files.base
        proved = prove(
            targets,
            end,
            target_map.hints,
            self._profile.free_bytes,
            self._files,
            self._pool,
            self._on_progress,
        )
        return sources, proved, equal

    def _equal_blocks(
        self, of_source: Sequence[Candidate], of_target: Sequence[Candidate]
    ) -> list[Run]:
        """Runs of exact target blocks whose packed bytes are those of a source block."""
        base = self._files.source_size
        places: defaultdict[bytes, list[int]] = defaultdict(list)
        exact = [one.places[0] for one in of_source if one.exact]
        for place, digest in zip(exact, self._digests(self._source, exact), strict=True):
            places[digest].append(place.offset)
        runs: list[Run] = []
        exact = [
            ByteRange(one.places[0].offset - base, one.places[0].size)
            for one in of_target
            if one.exact
        ]
        for place, digest in zip(exact, self._digests(self._target, exact), strict=True):
            known = places.get(digest)
            if not known:
                continue
            last = runs[-1] if runs else None
            after = last.source + place.offset - last.target if last else -1
            source = after if after in known else known[0]
            runs.append(Run(RunKind.EQUAL, place.offset, place.size, source))
        return runs

    def _digests(self, image: ImageFile, places: Sequence[ByteRange]) -> Iterator[bytes]:
        batches = [places[first : first + 64] for first in range(0, len(places), 64)]
        hashed = self._threads.map(partial(_digest_all, image), batches)
        return itertools.chain.from_iterable(hashed)

    def _opened_runs(self, targets: Sequence[OpenBlock]) -> list[Run]:
        base = self._files.source_size
        return [
            Run(RunKind.CHANGED, one.packed.offset - base, one.packed.size)
            for one in targets
            if one.recipe is not None
        ]

    def _verify(self, runs: list[Run]) -> list[Run]:
        batches = [runs[first : first + 64] for first in range(0, len(runs), 64)]
        checked = self._threads.map(
            lambda batch: list(verify_runs(batch, self._source, self._target)), batches
        )
        return list(itertools.chain.from_iterable(checked))

    def _cursor_windows(
        self, sources: Sequence[OpenBlock], targets: Sequence[OpenBlock]
    ) -> dict[int, int]:
        """How much content of each long block a cursor keeps, by content address.

        A target stream may be read anywhere, later, if all of it fits into what the device has
        left: an initrd holds the modules that stand in the root file system again.
        """
        windows = {
            one.content.offset: min(one.content.size, CURSOR_WINDOW_BYTES)
            for one in (*sources, *targets)
            if one.is_long
        }
        left = self._profile.free_bytes
        for one in targets:
            if one.is_long and one.content.size + one.memory_bytes <= left:
                windows[one.content.offset] = one.content.size
                left -= one.content.size + one.memory_bytes
        return windows

    def _windows(self, run: Run, opened: Sequence[OpenBlock]) -> list[Window]:
        """Windows of a run; `opened` are all blocks that are packed again, rising."""
        base = self._files.source_size
        first, end = (
            bisect_left(opened, base + at, key=lambda one: one.packed.offset)
            for at in (run.target, run.end)
        )
        inside = opened[first:end]
        return list(unfold(run, inside, base, self._profile.window_bytes, self._long_window_bytes))

    def _long_window_bytes(self, block: OpenBlock) -> int:
        assert block.recipe is not None
        encoder = pack_memory_bytes(block.recipe, block.content.size)
        return self._profile.long_window_bytes(encoder + block.memory_bytes)

    def _finder(
        self,
        runs: Sequence[Run],
        settled: Sequence[Run],
        changed: dict[int, list[Window]],
        maps: tuple[FileMap, FileMap],
        sources: Sequence[OpenBlock],
        targets: Sequence[OpenBlock],
        windows: dict[int, int],
        space: WorkSpace,
    ) -> SourceFinder:
        contents = _merged(
            content for group in changed.values() for one in group for content in one.content
        )
        readable = [*unclaimed_source(settled, self._source.size)]
        if sources:
            begin = self._files.base
            readable.append(ByteRange(begin, sources[-1].content.end - begin))
        target_anchors = self._anchors(space, contents, "index target")
        source_anchors = self._anchors(space, readable, "index source")
        pairs = pair_anchors(join_anchors((source_anchors, target_anchors)), target_anchors)
        base = self._files.source_size
        similar = SimilarFiles(
            [*maps[0].entries, *_inside(maps[0], sources, space, 0)],
            [*maps[1].entries, *_inside(maps[1], targets, space, base)],
            _addresses(maps[0], sources, 0),
            _addresses(maps[1], targets, base),
        )
        may_read = Readable(base, self._target.size, sources, targets, windows)
        return SourceFinder(runs, pairs, similar.ranges, may_read, self._profile.source_bytes)

    def _anchors(self, space: WorkSpace, ranges: Iterable[ByteRange], what: str) -> Anchors:
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


def _digest_all(image: Reader, places: Sequence[ByteRange]) -> list[bytes]:
    return [hashlib.sha256(image.read(one.offset, one.size)).digest() for one in places]


def _changed(
    of_target: Sequence[Candidate], equal: Sequence[Run], runs: Sequence[Run], base: int
) -> list[Candidate]:
    """Candidates with at least one byte that is not known to stand in the source."""
    stands = {run.target for run in equal}
    changed = [run for run in overlay(runs, equal) if run.kind is RunKind.CHANGED]
    starts = [run.target for run in changed]
    found = []
    for one in of_target:
        if one.exact and one.places[0].offset - base in stands:
            continue
        for place in one.places:
            begin, end = place.offset - base, place.end - base
            number = int(np.searchsorted(starts, end, side="left")) - 1
            if number >= 0 and changed[number].end > begin:
                found.append(one)
                break
    return found


def _merged(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """The same bytes in rising ranges that do not touch."""
    merged: list[ByteRange] = []
    for one in sorted(ranges):
        if merged and one.offset <= merged[-1].end:
            first = merged.pop()
            one = ByteRange(first.offset, max(first.end, one.end) - first.offset)
        merged.append(one)
    return merged


def _addresses(
    found: FileMap, opened: Sequence[OpenBlock], base: int
) -> Callable[[Extent], int | None]:
    contents = {one.places[0].offset - base: one.content.offset for one in opened}
    by_block = [contents.get(block.place.offset) for block in found.blocks]

    def address(extent: Extent) -> int | None:
        if extent.block is None:
            return base + extent.place
        content = by_block[extent.block]
        return None if content is None else content + extent.place

    return address


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


def _inside(
    found: FileMap, opened: Sequence[OpenBlock], space: WorkSpace, base: int
) -> Iterator[Entry]:
    """What was opened inside files, as files: each content, and those of an archive in it.

    Their places count from `base`, as all places of an entry do.
    """
    plain = sorted(
        (extent.place, extent.place + extent.size, entry.path)
        for entry in found.entries
        for extent in entry.extents
        if extent.block is None and entry.kind is EntryKind.FILE
    )
    count: Counter[str] = Counter()
    for block in opened:
        begin = block.places[0].offset - base
        number = bisect_right(plain, (begin, 1 << 62)) - 1
        path = ""
        if number >= 0 and plain[number][1] > begin:
            path = plain[number][2]
        elif found.entries:
            continue  # a block of the file system's own: its files are entries already
        count[path] += 1
        content = block.content
        whole = Extent(0, content.size, content.offset - base)
        yield Entry(EntryKind.FILE, f"{path}#{count[path]}", content.size, (whole,))
        with suppress(FormatError):
            for name, offset, size in read_cpio(_Content(space, content)):
                place = content.offset + offset - base
                yield Entry(EntryKind.FILE, name, size, (Extent(0, size, place),))
