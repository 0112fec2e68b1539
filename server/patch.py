"""Applies a payload to a whole image: `slipstream patch`.

For build machines and tests: it reads and writes files, checks the digests of both whole images,
and knows no slots. What a device does is installer/stream.py, with the same decoder.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import BinaryIO

from slipstream.delta.decode import FrameDecoder
from slipstream.delta.digest import Digest
from slipstream.delta.durable import rename_durably
from slipstream.delta.errors import (
    DigestMismatch,
    FormatError,
    Rejected,
    UsageError,
    WrongDevice,
)
from slipstream.delta.frame import FrameKind
from slipstream.delta.limits import MIB
from slipstream.delta.packing.libraries import available, missing
from slipstream.delta.payload import INDEX_PREFIX_BYTES, Index, parse_index, parse_index_size
from slipstream.delta.repack import Piece
from slipstream.delta.space import Read
from slipstream.server.beside import DigestBeside
from slipstream.server.image import ImageFile, check_output

_PIECE_BYTES = MIB  # of the source, hashed at a time

Progress = Callable[[int, int], None]


def apply_payload(
    source: Path | None, payload: Path, output: Path, on_progress: Progress | None = None
) -> None:
    """Write to `output` the target that `payload` makes of `source` (None: of nothing).

    The output must be none of the inputs. A regular file appears whole and verified, or not at all;
    a block device is written in place, once the source is verified.
    `on_progress` is told target bytes done and in all. Raises Rejected for a payload that is
    broken or made for another source, WrongDevice for a device too small, PackingUnavailable before
    the first byte, UsageError, OSError.
    """
    check_output(output, (source, payload), device=True)
    report = on_progress or _silent
    with ImageFile(payload) as encoded:
        index = read_index(encoded)
        for library in index.libraries:
            if library not in available():
                raise missing(library)
        if index.source_digest is None:
            _write(index, encoded, None, output, report, _nothing_to_check)
            return
        if source is None:
            raise UsageError("payload is a delta and needs its source", where=payload)
        with ImageFile(source) as image, _source_check(index, image) as check:
            if output.is_block_device():
                check()  # before the first byte is written over
            _write(index, encoded, image, output, report, check)


def _silent(_done: int, _total: int) -> None:
    """No one wants to know."""


def _nothing_to_check() -> None:
    """There is no source."""


def read_index(payload: ImageFile) -> Index:
    """The index at the start of a payload file, which is as long as it says; FormatError."""
    prefix = payload.read(0, min(INDEX_PREFIX_BYTES, payload.size))
    try:
        size = parse_index_size(prefix)
    except FormatError as error:
        raise error.at(payload.path) from None
    if size > payload.size:
        raise FormatError(
            "payload cut short", where=payload.path, expected=f"{size} bytes", got=payload.size
        )
    try:
        index = parse_index(payload.read(0, size))
    except FormatError as error:
        raise FormatError(f"index of the payload is broken: {error}", where=payload.path) from error
    if index.payload_size != payload.size:
        raise FormatError(
            "payload of another length than it says",
            where=payload.path,
            expected=f"{index.payload_size} bytes",
            got=payload.size,
        )
    return index


@contextmanager
def _source_check(index: Index, source: ImageFile) -> Iterator[Callable[[], None]]:
    """Reads the source beside the block; what comes out waits for it, and raises DigestMismatch.

    Of a wrong source come errors in the block, too: the mismatch is raised in their place.
    """
    # A partition may be larger than the image it holds.
    if source.size < index.source_size or (
        source.size != index.source_size and not source.is_device
    ):
        raise _not_the_source(source, f"{index.source_size} bytes", source.size)
    unwanted = Event()
    with ThreadPoolExecutor(1) as beside:
        check = beside.submit(_check_digest, index, source, unwanted)
        try:
            yield check.result
        except Rejected:
            check.result()
            raise
        finally:
            unwanted.set()


def _check_digest(index: Index, source: ImageFile, unwanted: Event) -> None:
    state = hashlib.sha256()
    for offset in range(0, index.source_size, _PIECE_BYTES):
        if unwanted.is_set():
            return
        state.update(source.read(offset, min(_PIECE_BYTES, index.source_size - offset)))
    if Digest(state.digest()) != index.source_digest:
        raise _not_the_source(source, f"SHA-256 {index.source_digest}", state.hexdigest())


def _not_the_source(source: ImageFile, expected: str, got: str | int) -> DigestMismatch:
    return DigestMismatch(
        "not the source that this payload was made from",
        where=source.path,
        expected=expected,
        got=got,
        hint="If it is, the payload is damaged: fetch or build it again",
    )


def _write(
    index: Index,
    payload: ImageFile,
    source: ImageFile | None,
    output: Path,
    report: Progress,
    check_source: Callable[[], None],
) -> None:
    if output.is_block_device():
        with output.open("r+b", buffering=0) as device:
            room = device.seek(0, os.SEEK_END)
            if room < index.target_size:
                raise WrongDevice(
                    "device too small",
                    where=output,
                    expected=f"{index.target_size} bytes",
                    got=room,
                )
            _write_target(index, payload, source, device, report, sparse=False)
        return
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        with temporary.open("w+b", buffering=0) as file:
            file.truncate(index.target_size)
            _write_target(index, payload, source, file, report, sparse=True)
        check_source()
        rename_durably(temporary, output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_target(
    index: Index,
    payload: ImageFile,
    source: ImageFile | None,
    file: BinaryIO,
    report: Progress,
    *,
    sparse: bool,
) -> None:
    """Decode all frames into `file`, make them durable, and check the digest of the whole."""
    report(0, index.target_size)

    def read_target(offset: int, size: int) -> bytes:
        return os.pread(file.fileno(), size, offset)

    with DigestBeside() as digest:
        for kind, piece in _decoded(index, payload, source, read_target):
            digest.update(piece.data)
            if kind is not FrameKind.ZERO or not sparse:
                _write_at(file, piece.offset, piece.data)
            report(piece.offset + len(piece.data), index.target_size)
        os.fsync(file.fileno())
        made = digest.result()
    if made != index.target_digest:
        raise DigestMismatch(
            "payload does not make the target it names: it is damaged, or what it was made from is not"
            " what it names",
            expected=f"SHA-256 {index.target_digest}",
            got=made,
        )


def _write_at(file: BinaryIO, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file.fileno(), view, offset)
        view, offset = view[done:], offset + done


def _decoded(
    index: Index, payload: ImageFile, source: ImageFile | None, read_target: Read
) -> Iterator[tuple[FrameKind, Piece]]:
    """What the frames make, in target order; a zero or copied frame makes it as it is."""
    body = len(index.raw)

    def read_source(offset: int, size: int) -> bytes:
        return b"" if source is None else source.read(offset, size)

    with FrameDecoder(index, read_source, read_target) as decoder:
        for number, frame in enumerate(index.frames):
            encoded = payload.read(body + frame.encoded.offset, frame.encoded.size)
            try:
                pieces = decoder.feed(number, encoded)
            except Rejected as error:
                raise error.at(f"{payload.path}: frame {number}") from error
            for piece in pieces:
                yield frame.kind, piece
