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
from slipstream.delta.limits import COUNTER_MAX, DELTA_LIBRARIES_CHARS_MAX, IMAGE_BYTES_MAX

_LIBRARY = r"[a-z0-9]+ [0-9A-Za-z.+~_-]+"  # as a recipe names it: delta/packing/recipe.py
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


def dump_entry(entry: ReleaseEntry | FullEntry | DeltaEntry) -> dict[str, str | int]:
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
