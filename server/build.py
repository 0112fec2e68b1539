"""Builds payloads over all cores: `build_payload(source, target, output)`.

The shell around delta/'s pure parts: files, threads, processes. Reading, hashing and comparing
run in threads (numpy and hashlib let go of the interpreter lock), encoding in processes. The
output is the same whatever the number of jobs, and appears whole or not at all.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import zstandard

from slipstream import __version__
from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.durable import rename_durably
from slipstream.delta.encode import EncodedFrame
from slipstream.delta.errors import UsageError
from slipstream.delta.frame import Frame, FrameKind
from slipstream.delta.limits import FRAMES_MAX, MIB
from slipstream.delta.match import match_grains
from slipstream.delta.moved import MovedBlock
from slipstream.delta.moves import Shifts
from slipstream.delta.packing.libraries import available
from slipstream.delta.payload import VERSION, Index, dump_index, parse_index
from slipstream.delta.profile import PROFILES, Profile
from slipstream.delta.stream_table import PackedStream
from slipstream.delta.unfold import OpenBlock
from slipstream.delta.windows import plan_full
from slipstream.server.fitting import read_blocks
from slipstream.server.image import ImageFile, check_output
from slipstream.server.partial import PartialBuild
from slipstream.server.pieces import PieceEncoder
from slipstream.server.plan import ZERO_BYTES_MIN, DeltaPlan, DeltaPlanner
from slipstream.server.pool import open_pool
from slipstream.server.progress import Progress, Say, unheard, unwatched
from slipstream.server.reuse import find_reusable
from slipstream.server.scan import Scan, scan_images
from slipstream.server.workspace import WorkFiles


@dataclass(frozen=True, slots=True)
class BuiltPayload:
    """A payload file. Frames, target bytes and encoded bytes are counted for each kind."""

    index: Index
    path: Path
    payload_size: int
    frames: dict[FrameKind, int]
    target_bytes: dict[FrameKind, int]
    encoded_bytes: dict[FrameKind, int]


def build_payload(
    source: Path | None,
    target: Path,
    output: Path,
    *,
    jobs: int | str | None = None,
    memory_bytes: int,
    profile: str = "balanced",
    on_progress: Progress = unwatched,
    say: Say = unheard,
    reuse: Path | None = None,
) -> BuiltPayload:
    """Write to `output` the payload that makes `target` from `source`; None: from nothing.

    `jobs` is how many processes work on it (None: as many as there are processors), or
    `dask://HOST:PORT`. `memory_bytes` is what the installer may hold on the device. `reuse` is an
    earlier full payload whose frames may be taken over where the target bytes are equal; the
    result has the same bytes without it. The output must be a regular file or not exist, and none
    of the inputs.

    UsageError, OSError, Unavailable (Dask); the output is then untouched. Interrupted and called
    again with the same inputs, it goes on from the frames that it has (partial.py), and `say` gets
    a word of that.
    """
    if profile not in PROFILES:
        raise UsageError("unknown profile", expected=" or ".join(PROFILES), got=profile)
    check_output(output, (source, target, reuse), device=False)
    effort = PROFILES[profile].within(memory_bytes)
    with ExitStack() as stack:
        images = [
            stack.enter_context(ImageFile(path)) for path in (target, source) if path is not None
        ]
        # Beside the output: there is room for a payload, and workers elsewhere can read it.
        done = stack.enter_context(PartialBuild(output))
        files = _work_files(source, target, images, Path(done.scratch.name))
        threads = stack.enter_context(ThreadPoolExecutor(2))
        pool = stack.enter_context(open_pool(jobs))
        scans = scan_images(images, threads, on_progress)
        reused: dict[int, EncodedFrame] = {}
        if source is None:
            runs = match_grains(np.empty(0, np.uint64), scans[0].hashes)
            plan = DeltaPlan(list(plan_full(runs, images[0].size, ZERO_BYTES_MIN)), [], {}, [])
            if reuse is not None:
                reused = find_reusable(reuse, images[0], plan.pieces, effort)
        else:
            planner = DeltaPlanner(
                images[1], images[0], files, done.scratch, effort, pool, threads, on_progress, say
            )
            plan = planner.plan(scans[1], scans[0])
        for note in plan.notes:
            say(note)
        stands = done.open(_key(effort, plan, scans))
        if stands:
            say(f"goes on with an interrupted build: {stands / 1e6:.1f} MB of frames stand")
        encoder = PieceEncoder(files, effort, reused, done, pool)
        return _write(
            output,
            encoder.frames(plan.pieces),
            lambda frames: dump_index(
                files.source_size,
                None if source is None else scans[1].digest,
                files.target_size,
                scans[0].digest,
                frames,
                *_streams(plan, frames),
            ),
            on_progress,
            files.target_size,
        )


def _work_files(
    source: Path | None, target: Path, images: Sequence[ImageFile], scratch: Path
) -> WorkFiles:
    """By absolute path: a worker may have another working folder."""
    return WorkFiles(
        None if source is None else source.absolute(),
        target.absolute(),
        scratch.absolute(),
        source_size=0 if source is None else images[1].size,
        target_size=images[0].size,
    )


def _key(effort: Profile, plan: DeltaPlan, scans: Sequence[Scan]) -> Digest:
    """Digest of all that frames follow from: images, plan, effort, and what encodes them."""
    libraries = (sys.version, zstandard.ZSTD_VERSION, sorted(available()), np.__version__)
    digests = [one.digest.hex for one in scans]
    return Digest.of(repr((__version__, VERSION, libraries, effort, digests, plan)).encode())


def _streams(
    plan: DeltaPlan, frames: Sequence[Frame]
) -> tuple[list[PackedStream], tuple[Shifts, ...]]:
    """The payload's streams: what frames read of the opened and moved blocks; the rest keeps its
    place. And the shifts that they name.

    Contents follow one another, so the streams that nothing reads only count as bytes.
    """
    blocks: list[OpenBlock | MovedBlock] = [*plan.blocks, *plan.moving.blocks]
    read = read_blocks(blocks, (source for frame in frames for source in frame.sources))
    streams: list[PackedStream] = []
    unread = 0
    for number, block in enumerate(blocks):
        if number not in read:
            unread += block.content.size
            continue
        if unread:
            streams.append(PackedStream(None, (), unread))
            unread = 0
        if isinstance(block, MovedBlock):
            size = block.content.size
            streams.append(PackedStream(None, block.places, size, moved=block.moved))
            continue
        window = plan.windows.get(block.content.offset, 0)
        memory = block.memory_bytes if block.is_long else 0
        streams.append(
            PackedStream(block.packing, block.places, block.content.size, memory, window)
        )
    named = sorted({one.moved.shifts for one in streams if one.moved})
    numbers = {shifts: number for number, shifts in enumerate(named)}
    return (
        [
            replace(one, moved=replace(one.moved, shifts=numbers[one.moved.shifts]))
            if one.moved
            else one
            for one in streams
        ],
        tuple(plan.moving.shifts[shifts] for shifts in named),
    )


def _write(
    output: Path,
    encoded: Iterable[EncodedFrame],
    dump: Callable[[list[Frame]], bytes],
    on_progress: Progress,
    target_size: int,
) -> BuiltPayload:
    """Frames to a body as they come, then index and body to the output's name."""
    frames: list[Frame] = []
    sizes: Counter[FrameKind] = Counter()
    coded: Counter[FrameKind] = Counter()
    with tempfile.TemporaryFile(dir=output.parent, prefix=f".{output.name}.") as body:
        position = 0
        on_progress("encode", 0, target_size)
        for one in encoded:
            if len(frames) == FRAMES_MAX:
                raise UsageError(
                    "the image takes more frames than a payload may have",
                    where=output,
                    expected=f"at most {FRAMES_MAX}",
                    got=f"that many for {one.frame.target.offset} of {target_size} bytes",
                    hint="Publish it without a delta",
                )
            body.write(one.encoded)
            place = ByteRange(position, len(one.encoded))
            frames.append(replace(one.frame, encoded=place))
            position = place.end
            sizes[one.frame.kind] += one.frame.target.size
            coded[one.frame.kind] += len(one.encoded)
            on_progress("encode", one.frame.target.end, target_size)
        raw = dump(frames)
        _publish(output, raw, body)
    index = parse_index(raw)
    counts = Counter(frame.kind for frame in frames)
    return BuiltPayload(index, output, index.payload_size, dict(counts), dict(sizes), dict(coded))


def _publish(output: Path, raw: bytes, body: IO[bytes]) -> None:
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            body.seek(0)
            shutil.copyfileobj(body, file, MIB)
            file.flush()
            os.fsync(file.fileno())
        rename_durably(temporary, output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
