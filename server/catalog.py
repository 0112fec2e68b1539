"""What the repository offers, read from its TUF metadata in public/metadata.

Nothing is verified here: devices verify, and the server has no say in what they trust. But
it is parsed as bytes that anybody may have written: bounded, typed, and an entry that makes no
sense is left out and counted, so that one bad release does not hide the others.
"""

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from slipstream.delta.entries import parse_artifact_entry
from slipstream.delta.errors import FormatError, Unavailable
from slipstream.delta.limits import (
    COUNTER_MAX,
    NAME_CHARS_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)

_MANIFEST = re.compile(r"releases/([^/]+)/manifest\.json")
_FULL = re.compile(r"releases/([^/]+)/([^/]+)\.full")
_ARTIFACT = re.compile(r"releases/([^/]+)/[^/]+\.artifact")
_DELTA = re.compile(r"deltas/([^/]+)/([^/]+)/[^/]+\.delta")
_HEX = r"^[0-9a-f]{64}$"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Hex = Annotated[str, msgspec.Meta(pattern=_HEX)]
_Counter = Annotated[int, msgspec.Meta(ge=1, le=COUNTER_MAX)]
_Size = Annotated[int, msgspec.Meta(ge=0)]


class _Meta(msgspec.Struct):
    version: _Counter


class _Metafiles(msgspec.Struct):
    meta: dict[str, _Meta]
    expires: str


class _Target(msgspec.Struct):
    length: _Size
    hashes: dict[str, str]
    custom: msgspec.Raw = msgspec.Raw(b"null")


class _Targets(msgspec.Struct):
    targets: dict[str, _Target]


class _MetafilesEnvelope(msgspec.Struct):
    signed: _Metafiles


class _TargetsEnvelope(msgspec.Struct):
    signed: _Targets


class _ReleaseCustom(msgspec.Struct):
    product: _Name
    release: _Name
    counter: _Counter
    channel: _Name


class _FullCustom(msgspec.Struct):
    image: _Name
    root: _Hex


class _DeltaCustom(msgspec.Struct):
    image: _Name
    source_root: _Hex
    target_root: _Hex
    payload_bytes: _Size


@dataclass(frozen=True, slots=True)
class ImageOffer:
    """One image of a release and its full payload."""

    image: str
    root: str  # hex
    payload_bytes: int | None  # None: the blob is not there


@dataclass(frozen=True, slots=True)
class DeltaOffer:
    """One delta payload that makes an image of a release."""

    image: str
    source_root: str  # hex
    source_release: str | None  # the release whose image has that root, where it is known
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class ArtifactOffer:
    """One file of a release for another updater."""

    artifact: str
    file_name: str
    size_bytes: int
    sha256: str  # hex, as the other two
    sha1: str
    md5: str


@dataclass(frozen=True, slots=True)
class Release:
    """A release as the repository's metadata describes it."""

    product: str
    release: str
    counter: int
    channel: str
    images: tuple[ImageOffer, ...] = ()
    deltas: tuple[DeltaOffer, ...] = ()
    artifacts: tuple[ArtifactOffer, ...] = ()

    @property
    def foreign(self) -> bool:
        """It has nothing for our installer: artifacts alone."""
        return bool(self.artifacts) and not self.images

    @property
    def roots(self) -> frozenset[str]:
        return frozenset(image.root for image in self.images)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All releases, the newest counter first."""

    releases: tuple[Release, ...]
    expires: str  # of the timestamp role, as TUF writes it: 2026-01-01T00:00:00Z
    skipped: int  # entries that made no sense

    def newest(self, product: str, channel: str) -> Release | None:
        """The release with the highest counter of a product's channel, but for foreign ones."""
        for release in self.releases:
            if (release.product, release.channel) == (product, channel) and not release.foreign:
                return release
        return None

    def find(self, product: str, release: str) -> Release | None:
        """The release of that name."""
        for one in self.releases:
            if (one.product, one.release) == (product, release):
                return one
        return None

    def has(self, product: str, release: str) -> bool:
        """Whether the repository has the release."""
        return self.find(product, release) is not None


class CatalogReader:
    """The catalog of a folder, read again when timestamp.json is another file."""

    def __init__(self, public: Path) -> None:
        self._public = public
        self._timestamp = str(public / "metadata" / "timestamp.json")
        self._key: tuple[int, int, int] | None = None
        self._catalog: Catalog | None = None
        self._reading = asyncio.Lock()

    async def read(self) -> Catalog:
        """The catalog as of now; Unavailable if there is none or it does not parse."""
        key = self._stat()
        if key != self._key or self._catalog is None:
            async with self._reading:
                if key != self._key or self._catalog is None:
                    self._catalog = await asyncio.to_thread(read_catalog, self._public)
                    self._key = key
        return self._catalog

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._timestamp)
        except OSError as error:
            raise _unreadable("timestamp.json", error.strerror or str(error)) from error
        return (status.st_ino, status.st_mtime_ns, status.st_size)


def read_catalog(public: Path) -> Catalog:
    """Parse timestamp, snapshot, targets and deltas below `public`/metadata. Blocks.

    Raises Unavailable if a file is missing, too large or not TUF metadata.
    """
    folder = public / "metadata"
    timestamp = _read(folder / "timestamp.json", TIMESTAMP_BYTES_MAX, _MetafilesEnvelope).signed
    snapshot_name = f"{_version(timestamp, 'snapshot.json')}.snapshot.json"
    snapshot = _read(folder / snapshot_name, SNAPSHOT_BYTES_MAX, _MetafilesEnvelope).signed
    targets: dict[str, _Target] = {}
    for role in ("deltas", "targets"):
        if role == "targets" or f"{role}.json" in snapshot.meta:
            name = f"{_version(snapshot, f'{role}.json')}.{role}.json"
            targets |= _read(folder / name, TARGETS_BYTES_MAX, _TargetsEnvelope).signed.targets
    return _make_catalog(targets, timestamp.expires, public / "blobs")


def _make_catalog(targets: Mapping[str, _Target], expires: str, blobs: Path) -> Catalog:
    found: dict[str, _ReleaseCustom] = {}
    images: dict[str, list[ImageOffer]] = {}
    deltas: dict[str, list[_DeltaCustom]] = {}
    artifacts: dict[str, list[ArtifactOffer]] = {}
    skipped = 0
    for path, target in targets.items():
        try:
            if match := _MANIFEST.fullmatch(path):
                custom = msgspec.json.decode(target.custom, type=_ReleaseCustom)
                if custom.release != match[1]:
                    skipped += 1
                    continue
                found[custom.release] = custom
            elif match := _FULL.fullmatch(path):
                full = msgspec.json.decode(target.custom, type=_FullCustom)
                size = _payload_bytes(blobs, target.hashes.get("sha256", ""))
                images.setdefault(match[1], []).append(ImageOffer(full.image, full.root, size))
            elif match := _ARTIFACT.fullmatch(path):
                artifacts.setdefault(match[1], []).append(_artifact(target.custom))
            elif match := _DELTA.fullmatch(path):
                delta = msgspec.json.decode(target.custom, type=_DeltaCustom)
                deltas.setdefault(match[1], []).append(delta)
        except (msgspec.MsgspecError, FormatError, ValueError, RecursionError):
            skipped += 1
    names = {(one.image, one.root): name for name, ones in images.items() for one in ones}
    releases = [
        Release(
            custom.product,
            custom.release,
            custom.counter,
            custom.channel,
            tuple(sorted(images.get(name, ()), key=lambda one: one.image)),
            tuple(
                DeltaOffer(
                    one.image,
                    one.source_root,
                    names.get((one.image, one.source_root)),
                    one.payload_bytes,
                )
                for one in deltas.get(name, ())
            ),
            tuple(sorted(artifacts.get(name, ()), key=lambda one: one.artifact)),
        )
        for name, custom in found.items()
    ]
    releases.sort(key=lambda one: (-one.counter, one.release))
    return Catalog(tuple(releases), expires, skipped)


def _artifact(custom: msgspec.Raw) -> ArtifactOffer:
    entry = parse_artifact_entry(msgspec.json.decode(custom))
    return ArtifactOffer(
        entry.artifact,
        entry.file_name,
        entry.artifact_bytes,
        entry.sha256.hex,
        entry.sha1,
        entry.md5,
    )


def _payload_bytes(blobs: Path, index_digest: str) -> int | None:
    if not re.fullmatch(_HEX, index_digest):
        return None
    try:
        return os.stat(blobs / f"{index_digest}.payload").st_size
    except OSError:
        return None


def _version(metafiles: _Metafiles, name: str) -> int:
    if name not in metafiles.meta:
        raise _unreadable(name, "the metadata above does not name it")
    return metafiles.meta[name].version


_T = TypeVar("_T")


def _read(path: Path, bytes_max: int, kind: type[_T]) -> _T:
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise _unreadable(path.name, error.strerror or str(error)) from error
    if len(raw) > bytes_max:
        raise _unreadable(path.name, f"larger than {bytes_max} bytes")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unreadable(path.name, str(error)) from error


def _unreadable(name: str, why: str) -> Unavailable:
    return Unavailable(f"the repository's {name} cannot be read: {why}", where="metadata")
