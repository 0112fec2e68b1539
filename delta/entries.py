"""The `custom` objects of TUF targets: what a target is, readable before it is fetched.

They are signed with the targets metadata, so they are as true as the role that signed them. The
table of target paths and their fields is docs/architecture.md, "What a repository looks like".
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.fields import check_name, check_range
from slipstream.delta.limits import COUNTER_MAX, IMAGE_BYTES_MAX


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
    """`custom` of a delta's index: what it starts from, makes, and asks of the device, in bytes."""

    image: str
    source_root: Digest
    target_root: Digest
    payload_bytes: int
    memory_bytes: int

    def __post_init__(self) -> None:
        check_name("image name", self.image)
        check_range("payload_bytes", self.payload_bytes, 1, IMAGE_BYTES_MAX)
        check_range("memory_bytes", self.memory_bytes, 0, IMAGE_BYTES_MAX)


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


_W = TypeVar("_W", bound=msgspec.Struct)


def _convert(custom: Any, kind: type[_W]) -> _W:
    try:
        return msgspec.convert(custom, type=kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(f"custom of a target: {error}") from error
