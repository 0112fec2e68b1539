"""The release manifest: what a release is, as signed bytes and as values that cannot be wrong.

JSON in one spelling only: sorted keys, no spaces, UTF-8 (docs/architecture.md, docs/adr/0005).
The caller has checked length and SHA-256 against signed metadata before anything is parsed here.
It decides nothing about trust.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from slipstream.delta.cmdline import root_words
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.fields import check_line, check_name, check_range, check_unique
from slipstream.delta.limits import (
    BOOT_OPTIONS_CHARS_MAX,
    COUNTER_MAX,
    IMAGE_BYTES_MAX,
    INDEX_BYTES_MAX,
    ISSUED_S_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_HARDWARE_MAX,
    MANIFEST_IMAGES_MAX,
    NOTES_CHARS_MAX,
    TITLE_CHARS_MAX,
)
from slipstream.delta.tree import VerityTuple

FORMAT = "slipstream-manifest-1"

# Control characters and what reorders or breaks a line on a terminal. A fixed list instead of
# str.isprintable: what Python calls printable changes with its Unicode tables, and a device must
# not refuse a release that a newer build machine made.
_NOTES_FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Place(StrEnum):
    """Where an image goes: the slot's partition of its name, or a boot file on the ESP."""

    PARTITION = "partition"
    UKI = "uki"
    LINUX = "linux"
    INITRD = "initrd"


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """The full payload of an image: its index's digest and size, and the size of the whole, in bytes."""

    index: Digest
    index_size: int
    payload_size: int

    def __post_init__(self) -> None:
        check_range("full.index_size", self.index_size, 1, INDEX_BYTES_MAX)
        check_range("full.payload_size", self.payload_size, self.index_size, IMAGE_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a release."""

    name: str
    place: Place
    tree: VerityTuple
    chunks: Digest  # SHA-256 of the chunk list; its length is 32 * tree.chunk_count bytes
    full: PayloadRef

    def __post_init__(self) -> None:
        check_name("image name", self.name)


@dataclass(frozen=True, slots=True)
class BootEntryTemplate:
    """What the boot menu shows, and the kernel command line of a kernel + initrd entry."""

    title: str
    options: str

    def __post_init__(self) -> None:
        check_line("boot.title", self.title, TITLE_CHARS_MAX)
        check_line("boot.options", self.options, BOOT_OPTIONS_CHARS_MAX)
        if not self.title:
            raise FormatError("boot.title is empty", expected="what the boot menu shall show")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A release. Raises FormatError when built from values that do not fit together."""

    product: str
    release: str
    counter: int
    floor: int
    channel: str
    hardware: tuple[str, ...]  # empty: any
    issued: int  # seconds since 1970
    notes: str
    images: tuple[ImageEntry, ...]  # empty: it has artifacts alone, which are targets beside it
    boot: BootEntryTemplate

    def __post_init__(self) -> None:
        check_name("product", self.product)
        check_name("release", self.release)
        check_name("channel", self.channel)
        check_range("counter", self.counter, 1, COUNTER_MAX)
        check_range("floor", self.floor, 0, self.counter)
        check_range("issued", self.issued, 0, ISSUED_S_MAX)
        check_range("number of hardware names", len(self.hardware), 0, MANIFEST_HARDWARE_MAX)
        for name in self.hardware:
            check_name("hardware", name)
        check_unique("hardware", self.hardware)
        check_range("length of notes", len(self.notes), 0, NOTES_CHARS_MAX)
        if _NOTES_FORBIDDEN.search(self.notes):
            raise FormatError("notes hold control characters", expected="text and line feeds")
        check_range("number of images", len(self.images), 0, MANIFEST_IMAGES_MAX)
        check_unique("image name", tuple(image.name for image in self.images))
        self._check_boot()

    def _check_boot(self) -> None:
        places = [image.place for image in self.images]
        for place in (Place.UKI, Place.LINUX, Place.INITRD):
            if places.count(place) > 1:
                raise FormatError(f"more than one {place} image", where=f"release {self.release}")
        if Place.UKI in places and (Place.LINUX in places or Place.INITRD in places):
            raise FormatError("a UKI beside a kernel or initrd", expected="one of the two")
        if Place.INITRD in places and Place.LINUX not in places:
            raise FormatError("an initrd without a kernel", expected="an image with place linux")
        if Place.LINUX in places and not self.boot.options:
            raise FormatError("a kernel without boot.options", expected="its command line")
        if Place.UKI in places and self.boot.options:
            raise FormatError(
                "boot.options beside a UKI, which carries its own", got=repr(self.boot.options[:80])
            )
        roots = {image.tree.root.hex for image in self.images if image.place is Place.PARTITION}
        for word in root_words(self.boot.options):  # an entry cannot ask for another image
            if word.value not in roots:
                raise FormatError(
                    "boot.options name a root that no partition image has",
                    expected=" or ".join(sorted(roots)) or "no root",
                    got=repr(word.value[:80]),
                )

    def image(self, name: str) -> ImageEntry:
        """The image of that name; FormatError when there is none."""
        for image in self.images:
            if image.name == name:
                return image
        raise FormatError(f"no image {name!r}", where=f"manifest of release {self.release}")


def parse_manifest(raw: bytes) -> Manifest:
    """Manifest of canonical JSON of at most MANIFEST_BYTES_MAX bytes; FormatError otherwise."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise FormatError(
            "manifest too large", expected=f"at most {MANIFEST_BYTES_MAX} bytes", got=len(raw)
        )
    try:
        wire = msgspec.json.decode(raw, type=_WireManifest, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a release manifest: {error}") from error
    if wire.format != FORMAT:
        raise FormatError("unknown manifest format", expected=FORMAT, got=repr(wire.format[:80]))
    manifest = Manifest(
        product=wire.product,
        release=wire.release,
        counter=wire.counter,
        floor=wire.floor,
        channel=wire.channel,
        hardware=wire.hardware,
        issued=wire.issued,
        notes=wire.notes,
        images=tuple(_image_of_wire(image) for image in wire.images),
        boot=BootEntryTemplate(wire.boot.title, wire.boot.options),
    )
    # One spelling: duplicate keys, spaces, escapes and 1e3 for 1000 all end here.
    if dump_manifest(manifest) != raw:
        raise FormatError(
            "manifest is not canonical", expected="sorted keys, no spaces, no duplicates"
        )
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    """The canonical JSON of a manifest; FormatError when it is longer than MANIFEST_BYTES_MAX."""
    wire = _WireManifest(
        format=FORMAT,
        product=manifest.product,
        release=manifest.release,
        counter=manifest.counter,
        floor=manifest.floor,
        channel=manifest.channel,
        hardware=manifest.hardware,
        issued=manifest.issued,
        notes=manifest.notes,
        images=tuple(_wire_of_image(image) for image in manifest.images),
        boot=_WireBoot(title=manifest.boot.title, options=manifest.boot.options),
    )
    raw = msgspec.json.encode(wire, order="sorted")
    if len(raw) > MANIFEST_BYTES_MAX:
        raise FormatError(
            "manifest too large", expected=f"at most {MANIFEST_BYTES_MAX} bytes", got=len(raw)
        )
    return raw


# --- the wire: types only; what the values mean is checked by the dataclasses above


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _WireTree(_Wire):
    hash_type: int
    algorithm: str
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    salt: str
    image_size: int
    root: str


class _WirePayload(_Wire):
    index: str
    index_size: int
    payload_size: int


class _WireImage(_Wire):
    name: str
    place: Place
    tree: _WireTree
    chunks: str
    full: _WirePayload


class _WireBoot(_Wire):
    title: str
    options: str


class _WireManifest(_Wire):
    format: str
    product: str
    release: str
    counter: int
    floor: int
    channel: str
    hardware: tuple[str, ...]
    issued: int
    notes: str
    images: tuple[_WireImage, ...]
    boot: _WireBoot


def _image_of_wire(wire: _WireImage) -> ImageEntry:
    tree = wire.tree
    return ImageEntry(
        name=wire.name,
        place=wire.place,
        tree=VerityTuple(
            hash_type=tree.hash_type,
            algorithm=tree.algorithm,
            data_block_size=tree.data_block_size,
            hash_block_size=tree.hash_block_size,
            data_blocks=tree.data_blocks,
            # a salt is 32 bytes of hexadecimal, as a digest is
            salt=Digest.parse_hex(tree.salt).raw,
            image_size=tree.image_size,
            root=Digest.parse_hex(tree.root),
        ),
        chunks=Digest.parse_hex(wire.chunks),
        full=PayloadRef(
            Digest.parse_hex(wire.full.index), wire.full.index_size, wire.full.payload_size
        ),
    )


def _wire_of_image(image: ImageEntry) -> _WireImage:
    tree = image.tree
    return _WireImage(
        name=image.name,
        place=image.place,
        tree=_WireTree(
            hash_type=tree.hash_type,
            algorithm=tree.algorithm,
            data_block_size=tree.data_block_size,
            hash_block_size=tree.hash_block_size,
            data_blocks=tree.data_blocks,
            salt=tree.salt.hex(),
            image_size=tree.image_size,
            root=tree.root.hex,
        ),
        chunks=image.chunks.hex,
        full=_WirePayload(
            index=image.full.index.hex,
            index_size=image.full.index_size,
            payload_size=image.full.payload_size,
        ),
    )
