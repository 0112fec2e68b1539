"""The account of a payload: `slipstream inspect --files`. Files are read here, what they mean is
worked out in explain.py, reasons.py and forecast.py.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import carve_files
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, UsageError
from slipstream.delta.filemap import Entry, FileMap, Packing
from slipstream.delta.filesystem.probe import read_filesystem
from slipstream.delta.limits import MIB
from slipstream.delta.payload import Index
from slipstream.server.archives import find_archives
from slipstream.server.explain import attribute
from slipstream.server.forecast import Forecast, estimate_full_bytes, forecast, written_bytes
from slipstream.server.image import ImageFile
from slipstream.server.ownership import Ownership
from slipstream.server.patch import read_index
from slipstream.server.reasons import Row, rows_of


@dataclass(frozen=True, slots=True)
class Account:
    """What a payload is made of and takes.

    `rows` add up to the payload, largest first. `written_bytes` are written to a slot in which the
    source stands; None, as `source_kind`, where that was not given: then no row says whether its
    file is new, either. `full_bytes` is what a full payload of the same
    target takes, `full_is_measured` whether one was looked at. `notes` say what could not be read.
    """

    index: Index
    rows: list[Row]
    target_kind: str
    source_kind: str | None
    forecast: Forecast
    written_bytes: int | None
    full_bytes: int
    full_is_measured: bool
    notes: list[str]


def account_for(
    payload: Path, target: Path, source: Path | None = None, full: Path | None = None
) -> Account:
    """The account of `payload`, which makes the image `target`.

    `full` is a full payload of that target, to compare with. FormatError for what is no payload,
    DigestMismatch for an image or full payload that is another than the payload names, UsageError,
    OSError.
    """
    with ExitStack() as stack:
        encoded, made = (stack.enter_context(ImageFile(path)) for path in (payload, target))
        index = read_index(encoded)
        _check("target", made, index.target_size, index.target_digest)
        of_source = sources = written = None
        if source is not None:
            if index.source_digest is None:
                raise UsageError("a full payload has no source", where=source)
            before = stack.enter_context(ImageFile(source))
            _check("source", before, index.source_size, index.source_digest)
            of_source = read_filesystem(before)
            sources = Ownership(of_source, find_archives(before, of_source)).entries
            written = written_bytes(before, made)
        of_target = read_filesystem(made)

        def read_body(place: ByteRange) -> bytes:
            return encoded.read(len(index.raw) + place.offset, place.size)

        owners = Ownership(of_target, find_archives(made, of_target))
        tallies = attribute(index, read_body, owners)
        heads = _heads(made, of_target, tallies)
        if full is not None:
            full_bytes = _full_bytes(stack.enter_context(ImageFile(full)), index)
        elif index.source_digest is None:
            full_bytes = index.payload_size
        else:
            full_bytes = estimate_full_bytes(made)
    return Account(
        index,
        rows_of(index, tallies, owners.entries, sources, heads),
        of_target.kind,
        None if of_source is None else of_source.kind,
        forecast(index),
        written,
        full_bytes,
        full is not None or index.source_digest is None,
        _notes(of_target, of_source),
    )


def _check(what: str, image: ImageFile, size: int, digest: Digest) -> None:
    """Whether an image is the one that a payload names. A device may be larger than its image."""
    if image.size == size or (image.is_device and image.size > size):
        state = hashlib.sha256()
        for offset in range(0, size, MIB):
            state.update(image.read(offset, min(MIB, size - offset)))
        got = state.hexdigest()
    else:
        got = f"{image.size} bytes"
    if got != digest.hex:
        raise DigestMismatch(
            f"not the {what} of this payload",
            where=image.path,
            expected=f"{size} bytes, SHA-256 {digest}",
            got=got,
        )


def _heads(target: ImageFile, found: FileMap, owners: Iterable[int]) -> dict[int, Packing]:
    """The owners that are packed files as a whole, by their first bytes."""
    files = {found.entries[n].path: n for n in sorted(owners) if 0 <= n < len(found.entries)}
    plain: Sequence[Entry] = [
        found.entries[owner]
        for owner in files.values()
        if all(extent.block is None for extent in found.entries[owner].extents)
    ]
    heads = {}
    for carved in carve_files(target, plain, lambda extent: extent.place):
        owner = files[carved.name.rpartition("#")[0]]
        if carved.places[0].offset == found.entries[owner].extents[0].place:
            heads[owner] = carved.packing
    return heads


def _full_bytes(full: ImageFile, index: Index) -> int:
    other = read_index(full)
    if other.source_digest is not None:
        raise UsageError("not a full payload: it needs a source", where=full.path)
    if other.target_digest != index.target_digest:
        raise DigestMismatch(
            "full payload of another target",
            where=full.path,
            expected=f"SHA-256 {index.target_digest}",
            got=other.target_digest,
        )
    return other.payload_size


def _notes(target: FileMap, source: FileMap | None) -> list[str]:
    notes = [f"target: {note}" for note in target.notes]
    return notes + [f"source: {note}" for note in (source.notes if source else ())]
