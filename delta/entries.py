"""The `custom` objects of TUF targets: what a target is, readable before it is fetched.

They are signed with the targets metadata, so they are as true as the role that signed them. The
table of target paths and their fields is docs/architecture.md, "What a repository looks like".
"""

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.fields import check_name, check_range
from slipstream.delta.limits import (
    COUNTER_MAX,
    DELTA_LIBRARIES_CHARS_MAX,
    FILE_NAME_CHARS_MAX,
    IMAGE_BYTES_MAX,
)

_LIBRARY = r"[a-z0-9]+ [0-9A-Za-z.+~_-]+"  # as a recipe names it: delta/packing/recipe.py
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", re.ASCII)
_LIBRARIES = re.compile(rf"(?:{_LIBRARY}(?:, {_LIBRARY})*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """`custom` of a manifest target: enough to list releases without fetching them."""

    product: str
    release: str
    counter: int
    channel: str

    def __post_init__(self) -> None:
        check_name("product", self.product)
        check_name("release", self.release)
        check_name("channel", self.channel)
        check_range("counter", self.counter, 1, COUNTER_MAX)


@dataclass(frozen=True, slots=True)
class FullEntry:
    """`custom` of a full payload's index."""

    image: str
    root: Digest

    def __post_init__(self) -> None:
        check_name("image name", self.image)


@dataclass(frozen=True, slots=True)
class DeltaEntry:
    """`custom` of a delta's index: what it starts from, makes, and asks of the device, in bytes.

    `libraries` are those that pack its content again, by name and exact version, sorted and joined
    by a comma and a space; none: "". A device that lacks one of them cannot use the delta.
    """

    image: str
    source_root: Digest
    target_root: Digest
    payload_bytes: int
    memory_bytes: int
    libraries: str = ""

    def __post_init__(self) -> None:
        check_name("image name", self.image)
        check_range("payload_bytes", self.payload_bytes, 1, IMAGE_BYTES_MAX)
        check_range("memory_bytes", self.memory_bytes, 0, IMAGE_BYTES_MAX)
        if len(self.libraries) > DELTA_LIBRARIES_CHARS_MAX or not _LIBRARIES.fullmatch(
            self.libraries
        ):
            raise FormatError(
                "libraries of a delta unreadable",
                expected=f"names with versions, at most {DELTA_LIBRARIES_CHARS_MAX} characters",
                got=repr(self.libraries[:80]),
            )

    @property
    def needs(self) -> frozenset[str]:
        """The libraries, one by one."""
        return frozenset(self.libraries.split(", ")) if self.libraries else frozenset()


@dataclass(frozen=True, slots=True)
class ArtifactEntry:
    """`custom` of an artifact: a file that another updater installs, .swu or .raucb or any other.

    Three digests of the same bytes: hawkBit's clients check SHA-1 (SWUpdate, RAUC) or SHA-256
    (Zephyr), and what is signed is SHA-256.
    """

    artifact: str  # its name in the release; hawkBit's clients see it as the type of a module
    file_name: str
    artifact_bytes: int
    sha256: Digest
    sha1: str  # hex
    md5: str  # hex

    def __post_init__(self) -> None:
        check_name("artifact name", self.artifact)
        check_range("artifact_bytes", self.artifact_bytes, 1, IMAGE_BYTES_MAX)
        if len(self.file_name) > FILE_NAME_CHARS_MAX or not _FILE_NAME.fullmatch(self.file_name):
            raise FormatError(
                "file name of an artifact cannot stand in a URL",
                expected=f"1 to {FILE_NAME_CHARS_MAX} of A-Z a-z 0-9 . + _ ~ -, letter or digit first",
                got=repr(self.file_name[:80]),
            )
        for what, text, digits in (("sha1", self.sha1, 40), ("md5", self.md5, 32)):
            if not re.fullmatch(f"[0-9a-f]{{{digits}}}", text):
                raise FormatError(f"{what} of an artifact", expected=f"{digits} hexadecimal digits")


def parse_release_entry(custom: object) -> ReleaseEntry:
    """Value of a manifest target's `custom`; FormatError for anything else."""
    wire = _convert(custom, _WireRelease)
    return ReleaseEntry(wire.product, wire.release, wire.counter, wire.channel)


def parse_full_entry(custom: object) -> FullEntry:
    """Value of a full payload target's `custom`; FormatError for anything else."""
    wire = _convert(custom, _WireFull)
    return FullEntry(wire.image, Digest.parse_hex(wire.root))


def parse_delta_entry(custom: object) -> DeltaEntry:
    """Value of a delta target's `custom`; FormatError for anything else."""
    wire = _convert(custom, _WireDelta)
    return DeltaEntry(
        image=wire.image,
        source_root=Digest.parse_hex(wire.source_root),
        target_root=Digest.parse_hex(wire.target_root),
        payload_bytes=wire.payload_bytes,
        memory_bytes=wire.memory_bytes,
        libraries=wire.libraries,
    )


def parse_artifact_entry(custom: object) -> ArtifactEntry:
    """Value of an artifact target's `custom`; FormatError for anything else."""
    wire = _convert(custom, _WireArtifact)
    return ArtifactEntry(
        artifact=wire.artifact,
        file_name=wire.file_name,
        artifact_bytes=wire.artifact_bytes,
        sha256=Digest.parse_hex(wire.sha256),
        sha1=wire.sha1,
        md5=wire.md5,
    )


def dump_entry(
    entry: ReleaseEntry | FullEntry | DeltaEntry | ArtifactEntry,
) -> dict[str, str | int]:
    """The `custom` object of an entry: digests as hexadecimal, the rest as it is."""
    values = {name: getattr(entry, name) for name in entry.__slots__}
    return {k: v.hex if isinstance(v, Digest) else v for k, v in values.items()}


# Unknown fields are passed over, as TUF asks of clients: a device in the field must be able to read
# the entries of a newer publisher. (The manifest is strict; it names its format.)


class _WireRelease(msgspec.Struct):
    product: str
    release: str
    counter: int
    channel: str


class _WireFull(msgspec.Struct):
    image: str
    root: str


class _WireArtifact(msgspec.Struct):
    artifact: str
    file_name: str
    artifact_bytes: int
    sha256: str
    sha1: str
    md5: str


class _WireDelta(msgspec.Struct):
    image: str
    source_root: str
    target_root: str
    payload_bytes: int
    memory_bytes: int
    libraries: str = ""  # entries of publishers before format version 2 have none


_W = TypeVar("_W", bound=msgspec.Struct)


def _convert(custom: Any, kind: type[_W]) -> _W:
    try:
        return msgspec.convert(custom, type=kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(f"custom of a target: {error}") from error
