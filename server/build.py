"""Builds payloads over all cores: `build_payload(source, target, output)`.

The shell around delta/'s pure parts: files, threads, processes. Reading, hashing and comparing
run in threads (numpy and hashlib let go of the interpreter lock), encoding in processes. The
output is the same whatever the number of jobs, and appears whole or not at all.
"""

import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
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
from slipstream.delta.decode import decode_frame
from slipstream.delta.digest import Digest
from slipstream.delta.durable import rename_durably
from slipstream.delta.encode import PROFILES, EncodedFrame, Profile, encode_full, encode_window
from slipstream.delta.errors import UsageError
from slipstream.delta.frame import Frame, FrameKind, make_frame
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.match import (
    Hashes,
    Reader,
    Run,
    hash_grains,
    join_zeros,
    match_grains,
    verify_runs,
)
from slipstream.delta.payload import Index, dump_index, parse_index
from slipstream.delta.windows import (
    Piece,
    changed_ranges,
    plan_full,
    plan_pieces,
    settle,
    unclaimed_source,
)
from slipstream.server.image import ImageFile, check_output
from slipstream.server.patch import read_index

_PIECE_BYTES = 4 * MIB  # read and hashed at a time
_ZERO_BYTES_MIN = 64 * KIB  # shorter zero runs are cheaper inside their neighbours
_AHEAD = 16  # pieces in work or done, for each job, before the first of them is written
_PROBE_EVERY = 32  # of the frames taken over, one in so many is encoded again to compare
_JOBS_MAX = 8  # each holds about 150 MiB

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
    jobs: int | None = None,
    memory_bytes: int,
    profile: str = "balanced",
    on_progress: Progress | None = None,
    reuse: Path | None = None,
) -> BuiltPayload:
    """Write to `output` the payload that makes `target` from `source`; None: from nothing.

    `memory_bytes` is what the installer may hold on the device. `reuse` is an earlier full
    payload whose frames may be taken over where the target bytes are equal; the result has the
    same bytes without it. The output must be a regular file or not exist, and none of the inputs.
    UsageError, OSError; the output is then untouched.
    """
    if profile not in PROFILES:
        raise UsageError("unknown profile", expected=" or ".join(PROFILES), got=profile)
    check_output(output, (source, target, reuse), device=False)
    effort = PROFILES[profile].within(memory_bytes)
    jobs = min(jobs or os.cpu_count() or 1, _JOBS_MAX)
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(jobs))
        target_image = stack.enter_context(ImageFile(target))
        source_image = None if source is None else stack.enter_context(ImageFile(source))
        scanned = [threads.submit(_scan, image) for image in (target_image, source_image) if image]
        target_scan = scanned[0].result()
        if source_image is None:
            runs = match_grains(np.empty(0, np.uint64), target_scan.hashes)
            pieces = list(plan_full(runs, target_image.size, _ZERO_BYTES_MIN))
            source_size, source_digest = 0, None
        else:
            source_scan = scanned[1].result()
            source_size, source_digest = source_image.size, source_scan.digest
            pieces = _plan(source_image, target_image, source_scan, target_scan, effort, threads)
        taken: dict[int, EncodedFrame] = {}
        if reuse is not None and source is None:
            taken = _find_taken(reuse, target_image, pieces, effort)
        coded = sum(_is_coded(one) and one.target.offset not in taken for one in pieces)
        encoder = stack.enter_context(_Encoder(source, target, effort, jobs if coded > 1 else 1))
        return _write(
            output,
            encoder.frames(pieces, taken),
            lambda frames: dump_index(
                source_size, source_digest, target_image.size, target_scan.digest, frames
            ),
            on_progress or _silent,
            target_image.size,
        )


def _silent(_done: int, _total: int) -> None:
    """No one wants to know."""


@dataclass(frozen=True, slots=True)
class _Scan:
    digest: Digest
    hashes: Hashes


def _scan(image: ImageFile) -> _Scan:
    """One pass over an image: its digest and the hashes of its whole grains."""
    state = hashlib.sha256()
    hashes = [np.empty(0, np.uint64)]
    for offset in range(0, image.size, _PIECE_BYTES):
        data = image.read(offset, min(_PIECE_BYTES, image.size - offset))
        state.update(data)
        hashes.append(hash_grains(data))
    return _Scan(Digest(state.digest()), np.concatenate(hashes))


def _plan(
    source: ImageFile,
    target: ImageFile,
    source_scan: _Scan,
    target_scan: _Scan,
    profile: Profile,
    threads: ThreadPoolExecutor,
) -> list[Piece]:
    found = match_grains(source_scan.hashes, target_scan.hashes)
    joined = join_zeros(found, source_scan.hashes, _ZERO_BYTES_MIN)
    settled = settle(joined, target.size, profile.absorb_bytes)
    checked = _verify(settled, source, target, threads)
    # What the comparison refused (never seen) is changed after all.
    settled = settle(checked, target.size, profile.absorb_bytes)
    source_anchors = _anchors(source, unclaimed_source(settled, source.size), threads)
    target_anchors = _anchors(target, changed_ranges(settled), threads)
    return list(
        plan_pieces(
            settled,
            joined,
            pair_anchors(source_anchors, target_anchors),
            source.size,
            profile.window_bytes,
            profile.source_bytes,
        )
    )


def _verify(
    runs: list[Run], source: Reader, target: Reader, threads: ThreadPoolExecutor
) -> list[Run]:
    batches = [runs[first : first + 64] for first in range(0, len(runs), 64)]
    checked = threads.map(lambda batch: list(verify_runs(batch, source, target)), batches)
    return list(itertools.chain.from_iterable(checked))


def _anchors(image: ImageFile, ranges: list[ByteRange], threads: ThreadPoolExecutor) -> Anchors:
    pieces = [
        (offset, min(_PIECE_BYTES + ANCHOR_BYTES - 1, part.end - offset))
        for part in ranges
        for offset in range(part.offset, part.end, _PIECE_BYTES)
    ]
    return join_anchors(
        threads.map(lambda piece: find_anchors(image.read(piece[0], piece[1]), piece[0]), pieces)
    )


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


class _Encoder:
    """Encodes pieces in processes, gives frames in order, and runs only so far ahead."""

    def __init__(self, source: Path | None, target: Path, profile: Profile, jobs: int) -> None:
        self._ahead = jobs * _AHEAD
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            # Threads are running: a plain fork could inherit a held lock.
            context = multiprocessing.get_context("spawn")
            # Only this process holds the end that is never written to: it closes when this
            # process closes it, or dies of whatever signal, and then the workers end.
            self._watched, self._held = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                jobs,
                mp_context=context,
                initializer=_start_worker,
                initargs=(source, target, profile, self._watched),
            )
        else:
            self._worker = _Worker(source, target, profile)

    def __enter__(self) -> "_Encoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            if error is not None:
                self._held.close()  # no one wants the pieces in work, of seconds each
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._held.close()
            self._watched.close()
        else:
            self._worker.close()

    def frames(self, pieces: list[Piece], taken: dict[int, EncodedFrame]) -> Iterator[EncodedFrame]:
        """All frames of the pieces, in target order; `taken` by target offset need no work."""
        waiting: deque[Callable[[], tuple[EncodedFrame, ...]]] = deque()
        for piece in pieces:
            ready = taken.get(piece.target.offset)
            if ready is not None:
                waiting.append(partial(_same, (ready,)))
            elif not _is_coded(piece):
                waiting.append(partial(_same, _plain(piece)))
            elif self._pool is None:
                waiting.append(partial(self._worker.encode, piece))
            else:
                waiting.append(self._pool.submit(_encode_in_worker, piece).result)
            # Frames without work keep their place in the queue too: it stays bounded.
            if len(waiting) > self._ahead:
                yield from waiting.popleft()()
        for rest in waiting:
            yield from rest()


def _same(frames: tuple[EncodedFrame, ...]) -> tuple[EncodedFrame, ...]:
    return frames


def _is_coded(piece: Piece) -> bool:
    return piece.kind in {FrameKind.DATA, FrameKind.DIFF}


def _plain(piece: Piece) -> tuple[EncodedFrame, ...]:
    return (EncodedFrame(make_frame(piece.kind, piece.target, sources=piece.sources), b""),)


class _Worker:
    """Encodes single pieces; lives in a process of the pool, or in this one."""

    def __init__(self, source: Path | None, target: Path, profile: Profile) -> None:
        self._target = ImageFile(target)
        self._source = None if source is None else ImageFile(source)
        self._profile = profile

    def encode(self, piece: Piece) -> tuple[EncodedFrame, ...]:
        target = self._target.read(piece.target.offset, piece.target.size)
        if piece.kind is FrameKind.DATA:
            return (encode_full(target, piece.target.offset, self._profile),)
        source = b""
        if self._source is not None:
            source = b"".join(self._source.read(one.offset, one.size) for one in piece.sources)
        return encode_window(target, piece.target.offset, source, piece.sources, self._profile)

    def close(self) -> None:
        for image in (self._target, self._source):
            if image is not None:
                image.close()


_worker: _Worker | None = None  # one for each process of the pool


def _start_worker(source: Path | None, target: Path, profile: Profile, watched: Connection) -> None:
    global _worker
    # Ctrl-C reaches the whole process group; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    _worker = _Worker(source, target, profile)


def _end_with_parent(watched: Connection) -> None:
    """End this process, whatever it does, once the parent has closed its end or is no more."""
    watched.poll(None)
    os._exit(1)


def _encode_in_worker(piece: Piece) -> tuple[EncodedFrame, ...]:
    if _worker is None:
        raise RuntimeError("the pool's process was not started by _start_worker")
    return _worker.encode(piece)


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
