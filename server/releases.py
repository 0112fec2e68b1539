"""REPO/releases/<V>/release.json: what a release was published from, and how far a publish came.

Nothing here is trusted and nothing is lost with it: image files are looked for where they were and
checked against the signed root, and made again from the full payload when they are gone or changed
(so no second copy of every image is kept). Payloads that a killed publish had finished are taken up
again instead of being built again.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.metadata import Targets

from slipstream.delta.digest import Digest
from slipstream.delta.entries import ReleaseEntry, parse_release_entry
from slipstream.delta.errors import DigestMismatch, FormatError, SlipstreamError, UsageError
from slipstream.delta.layout import manifest_path, payload_blob
from slipstream.delta.limits import INDEX_BYTES_MAX, MIB
from slipstream.delta.manifest import ImageEntry, Manifest, parse_manifest
from slipstream.delta.os_release import MenuKey
from slipstream.delta.payload import INDEX_PREFIX_BYTES, Index, parse_index, parse_index_size
from slipstream.delta.tree import Tree, TreeBuilder
from slipstream.server.image import ImageFile
from slipstream.server.patch import apply_payload
from slipstream.server.repo import Repository

_PIECE_BYTES = 4 * MIB  # of an image, hashed at a time


class Record(msgspec.Struct):
    """release.json."""

    release: str
    issued: int  # seconds since 1970: a publish that is taken up again keeps its first time
    roots: dict[str, str]  # image name -> root
    settings: dict[str, str]  # of the encoder: payloads made with others are not taken up
    paths: dict[str, str]  # image name -> file it was read from
    payloads: dict[str, str | None] = {}  # target path -> digest of index; None: not worth having
    menu: MenuKey | None = None  # of its UKI


@dataclass(frozen=True, slots=True)
class ScannedImage:
    """An image file, read once: its tree, its SHA-256, and what the file looked like then."""

    path: Path
    tree: Tree
    digest: Digest
    looks: tuple[int, ...]

    def check_unchanged(self) -> None:
        """UsageError if the file was touched since: what is built from it would not be this image."""
        if _looks(self.path) != self.looks:
            raise UsageError(
                "image changed while it was being published",
                where=self.path,
                hint="Publish a file that nobody writes to",
            )


def read_record(repo: Repository, version: str) -> Record | None:
    """The record of a release; None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode(
            (repo.release(version) / "release.json").read_bytes(), type=Record
        )
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def take_up_record(
    repo: Repository,
    version: str,
    scanned: Mapping[str, ScannedImage],
    settings: dict[str, str],
    now: datetime,
) -> Record:
    """The record of an earlier run over the same images with the same settings, else a new one."""
    fresh = Record(
        release=version,
        issued=int(now.timestamp()),
        roots={name: image.tree.tuple.root.hex for name, image in scanned.items()},
        settings=settings,
        paths={name: str(image.path) for name, image in scanned.items()},
    )
    found = read_record(repo, version)
    if found is not None and (found.roots, found.settings) == (fresh.roots, fresh.settings):
        fresh.issued, fresh.payloads = found.issued, found.payloads
    return fresh


def menu_keys(repo: Repository, entries: Iterable[ReleaseEntry]) -> dict[str, MenuKey]:
    """What a boot menu sorts published releases by, for those of which it is recorded."""
    records = {entry.release: read_record(repo, entry.release) for entry in entries}
    return {version: one.menu for version, one in records.items() if one and one.menu}


def write_record(repo: Repository, record: Record) -> None:
    """Keep a record, durably."""
    folder = repo.release(record.release)
    repo.disk.make_folder(folder)
    raw = msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2)
    repo.disk.write(folder / "release.json", raw + b"\n")


def scan_image(
    path: Path, salt: bytes, on_progress: Callable[[int, int], None] | None = None
) -> ScannedImage:
    """Read an image file or block device once. UsageError if it is empty or cannot be read."""
    builder, digest = TreeBuilder(salt), hashlib.sha256()
    try:
        looks = _looks(path)
        for piece, done, total in _pieces(path):
            builder.append(piece)
            digest.update(piece)
            if on_progress is not None:
                on_progress(done, total)
        return ScannedImage(path.absolute(), builder.finish(), Digest(digest.digest()), looks)
    except FormatError as error:
        raise UsageError(str(error), where=path) from error
    except OSError as error:
        raise UsageError(f"image cannot be read: {error.strerror}", where=path) from error


def list_releases(targets: Targets) -> dict[str, ReleaseEntry]:
    """All published releases by version, in the order of their counters."""
    entries = [
        parse_release_entry(target.custom)
        for path, target in targets.targets.items()
        if path.endswith("/manifest.json")
    ]
    return {entry.release: entry for entry in sorted(entries, key=lambda entry: entry.counter)}


def read_manifest(repo: Repository, targets: Targets, version: str) -> Manifest:
    """The manifest of a published release, checked against the targets metadata. Rejected if bad."""
    target = targets.targets[manifest_path(version)]
    digest = Digest.parse_hex(target.hashes["sha256"])
    raw = repo.target(target.path, digest.hex).read_bytes()
    digest.check(raw, "manifest", where=f"release {version}")
    return parse_manifest(raw)


def read_index(path: Path) -> Index:
    """The index at the head of a payload file. FormatError, OSError."""
    with path.open("rb") as file:
        prefix = file.read(INDEX_PREFIX_BYTES)
        size = min(parse_index_size(prefix), INDEX_BYTES_MAX)
        return parse_index(prefix + file.read(size - len(prefix)))


def published_index(repo: Repository, digest: Digest) -> Index:
    """The index of the payload of that name. Rejected where the blob begins with another; OSError."""
    blob = repo.blob(payload_blob(digest))
    index = read_index(blob)
    digest.check(index.raw, "index of a payload", blob)
    return index


def find_source(
    repo: Repository, version: str, image: ImageEntry, folder: Path | None = None
) -> Path:
    """A file with the bytes of a published image: the one it was published from, or one made again.

    What is made again stands in `folder`; without one in REPO/work/, and is gone with the next
    publish. Rejected or OSError when the full payload is damaged, or is another image's.
    """
    record = read_record(repo, version)
    path = Path(record.paths[image.name]) if record and image.name in record.paths else None
    if path is not None and _holds(path, image):
        return path
    made = (folder or repo.work) / f"{version}.{image.name}.img"
    blob = repo.blob(payload_blob(image.full.index))
    apply_payload(None, blob, made)
    if not _holds(made, image):
        raise DigestMismatch(
            "full payload does not make the image that was signed",
            where=blob,
            expected=f"root {image.tree.root}",
            hint="Restore it from a mirror or a backup",
        )
    return made


def _holds(path: Path, image: ImageEntry) -> bool:
    try:
        return scan_image(path, image.tree.salt).tree.tuple == image.tree
    except SlipstreamError:
        return False


def _looks(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _pieces(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """The bytes of a file or block device in pieces, with how much is done and the whole size."""
    with ImageFile(path) as image:
        for offset in range(0, image.size, _PIECE_BYTES):
            piece = image.read(offset, min(_PIECE_BYTES, image.size - offset))
            yield piece, offset + len(piece), image.size
