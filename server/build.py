"""Builds payloads over all cores: `build_payload(source, target, output)`.

The shell around delta/'s pure parts: files, threads, processes. Reading, hashing and comparing
run in threads (numpy and hashlib let go of the interpreter lock), encoding in processes. The
output is the same whatever the number of jobs, and appears whole or not at all.
"""

import hashlib
import os
import shutil
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from slipstream.delta.byterange import ByteRange
from slipstream.delta.decode import decode_frame
from slipstream.delta.durable import rename_durably
from slipstream.delta.encode import PROFILES, EncodedFrame, Profile, encode_full, encode_window
from slipstream.delta.errors import UsageError
from slipstream.delta.frame import Frame, FrameKind, make_frame
from slipstream.delta.limits import MIB
from slipstream.delta.match import match_grains
from slipstream.delta.payload import Index, dump_index, parse_index
from slipstream.delta.stream_table import PackedStream
from slipstream.delta.unfold import OpenBlock
from slipstream.delta.windows import Piece, plan_full
from slipstream.server.image import ImageFile, check_output
from slipstream.server.patch import read_index
from slipstream.server.plan import ZERO_BYTES_MIN, DeltaPlan, DeltaPlanner, scan
from slipstream.server.pool import Pool, Result, in_order, open_pool, workspace
from slipstream.server.workspace import WorkFiles

_PROBE_EVERY = 32  # of the frames taken over, one in so many is encoded again to compare

Progress = Callable[[int, int], None]


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
    on_progress: Progress | None = None,
    reuse: Path | None = None,
) -> BuiltPayload:
    """Write to `output` the payload that makes `target` from `source`; None: from nothing.

    `jobs` is how many processes work on it, or `dask://HOST:PORT`. `memory_bytes` is what the installer may hold on the device. `reuse` is an earlier full
    payload whose frames may be taken over where the target bytes are equal; the result has the
    same bytes without it. The output must be a regular file or not exist, and none of the inputs.
    UsageError, OSError; the output is then untouched.
    """
    if profile not in PROFILES:
        raise UsageError("unknown profile", expected=" or ".join(PROFILES), got=profile)
    check_output(output, (source, target, reuse), device=False)
    effort = PROFILES[profile].within(memory_bytes)
    with ExitStack() as stack:
        pool = stack.enter_context(open_pool(jobs))
        threads = stack.enter_context(ThreadPoolExecutor(2))
        target_image = stack.enter_context(ImageFile(target))
        source_image = None if source is None else stack.enter_context(ImageFile(source))
        # Beside the output: there is room for a payload, and workers elsewhere can read it.
        scratch = stack.enter_context(
            tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.scratch.")
        )
        source_size = 0 if source_image is None else source_image.size
        files = WorkFiles(source, target, Path(scratch.name), source_size, target_image.size)
        scans = [threads.submit(scan, image) for image in (target_image, source_image) if image]
        target_scan = scans[0].result()
        taken: dict[int, EncodedFrame] = {}
        if source_image is None:
            runs = match_grains(np.empty(0, np.uint64), target_scan.hashes)
            pieces = list(plan_full(runs, target_image.size, ZERO_BYTES_MIN))
            plan = DeltaPlan(pieces, [], [], {}, [])
            if reuse is not None:
                taken = _find_taken(reuse, target_image, pieces, effort)
        else:
            planner = DeltaPlanner(
                source_image, target_image, files, scratch.file, effort, pool, threads
            )
            plan = planner.plan(scans[1].result(), target_scan)
        source_digest = None if source is None else scans[1].result().digest
        calls = (partial(_start, files, effort, piece, taken) for piece in plan.pieces)
        encoded = (frame for frames in in_order(pool, calls) for frame in frames)
        return _write(
            output,
            encoded,
            lambda frames: dump_index(
                source_size,
                source_digest,
                target_image.size,
                target_scan.digest,
                frames,
                _streams(plan, frames),
            ),
            on_progress or _silent,
            target_image.size,
        )


def _silent(_done: int, _total: int) -> None:
    """No one wants to know."""


def _find_taken(
    earlier: Path, target: ImageFile, pieces: list[Piece], profile: Profile
) -> dict[int, EncodedFrame]:
    """Data frames of an earlier full payload that make the same bytes, by target offset.

    A payload does not say at what level it was compressed: some frames are encoded again, and
    if one differs nothing is taken, so that the result does not depend on what was there before.
    """
    taken: dict[int, EncodedFrame] = {}
    with ImageFile(earlier) as payload:
        index = read_index(payload)
        made: dict[tuple[int, bytes], EncodedFrame] = {}
        for frame in index.frames:
            if frame.kind is FrameKind.DATA:
                encoded = payload.read(len(index.raw) + frame.encoded.offset, frame.encoded.size)
                digest = hashlib.sha256(decode_frame(frame, encoded, b"")).digest()
                made[frame.target.size, digest] = EncodedFrame(frame, encoded)
    for piece in pieces:
        if piece.kind is not FrameKind.DATA:
            continue
        data = target.read(piece.target.offset, piece.target.size)
        one = made.get((len(data), hashlib.sha256(data).digest()))
        if one is None:
            continue
        probe = len(taken) % _PROBE_EVERY == 0
        if probe and encode_full(data, 0, profile).encoded != one.encoded:
            return {}
        taken[piece.target.offset] = replace(one, frame=replace(one.frame, target=piece.target))
    return taken


def _start(
    files: WorkFiles,
    profile: Profile,
    piece: Piece,
    taken: dict[int, EncodedFrame],
    pool: Pool,
) -> Result[tuple[EncodedFrame, ...]]:
    """Begin with a piece; frames in `taken`, by target offset, and those without bytes are there."""
    ready = taken.get(piece.target.offset)
    if ready is not None:
        return partial(_same, (ready,))
    if piece.kind in {FrameKind.ZERO, FrameKind.COPY}:
        frame = make_frame(piece.kind, piece.target, sources=piece.sources)
        return partial(_same, (EncodedFrame(frame, b""),))
    return pool.submit(_encode, files, profile, piece)


def _same(frames: tuple[EncodedFrame, ...]) -> tuple[EncodedFrame, ...]:
    return frames


def _encode(files: WorkFiles, profile: Profile, piece: Piece) -> tuple[EncodedFrame, ...]:
    """A task: the frames of one piece."""
    space = workspace(files)
    if piece.partition is None:
        target = space.read(files.source_size + piece.target.offset, piece.target.size)
        return (encode_full(target, piece.target.offset, profile),)
    return encode_window(
        space.read_all(piece.content),
        piece.target.offset,
        piece.partition,
        space.read_all(piece.sources),
        piece.sources,
        profile,
    )


def _streams(plan: DeltaPlan, frames: Sequence[Frame]) -> list[PackedStream]:
    """The payload's streams: what frames read of the opened blocks; the rest keeps its place.

    Contents follow one another, so the streams that nothing reads only count as bytes.
    """
    blocks = [*plan.sources, *plan.targets]
    read = _read_blocks(blocks, frames)
    streams: list[PackedStream] = []
    unread = 0
    for number, block in enumerate(blocks):
        if number not in read:
            unread += block.content.size
            continue
        if unread:
            streams.append(PackedStream(None, (), unread))
            unread = 0
        window = plan.windows.get(block.content.offset, 0)
        memory = block.memory_bytes if block.is_long else 0
        streams.append(
            PackedStream(block.packing, block.places, block.content.size, memory, window)
        )
    return streams


def _read_blocks(blocks: Sequence[OpenBlock], frames: Sequence[Frame]) -> set[int]:
    """Numbers of the blocks whose contents some frame reads."""
    read: set[int] = set()
    ends = [block.content.end for block in blocks]
    base = blocks[0].content.offset if blocks else 0
    for frame in frames:
        for source in frame.sources:
            position = max(source.offset, base)
            while blocks and position < source.end:
                number = bisect_right(ends, position)
                read.add(number)
                position = ends[number]
    return read


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
        on_progress(0, target_size)
        for one in encoded:
            body.write(one.encoded)
            place = ByteRange(position, len(one.encoded))
            frames.append(replace(one.frame, encoded=place))
            position = place.end
            sizes[one.frame.kind] += one.frame.target.size
            coded[one.frame.kind] += len(one.encoded)
            on_progress(one.frame.target.end, target_size)
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
