"""The manifest: one spelling, and no value that cannot be."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError, Rejected
from slipstream.delta.limits import (
    BOOT_OPTIONS_CHARS_MAX,
    COUNTER_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_IMAGES_MAX,
    NAME_CHARS_MAX,
    NOTES_CHARS_MAX,
)
from slipstream.delta.manifest import (
    BootEntryTemplate,
    ImageEntry,
    Manifest,
    PayloadRef,
    Place,
    dump_manifest,
    parse_manifest,
)
from slipstream.delta.tree import VerityTuple

SALT = bytes(range(32))
ROOT = Digest.of(b"root")


def make_image(name: str, place: Place = Place.PARTITION, size: int = 5000) -> ImageEntry:
    tree = VerityTuple(
        hash_type=1,
        algorithm="sha256",
        data_block_size=4096,
        hash_block_size=4096,
        data_blocks=-(-size // 4096),
        salt=SALT,
        image_size=size,
        root=Digest.of(name.encode()),
    )
    return ImageEntry(name, place, tree, Digest.of(b"chunks"), PayloadRef(ROOT, 100, 4000))


ROOTFS = make_image("rootfs")
MANIFEST = Manifest(
    product="gateway",
    release="2.0",
    counter=2,
    floor=1,
    channel="stable",
    hardware=("x86-64",),
    issued=1767225600,
    notes="Fixes the clock.\nSchöne Grüße",
    images=(ROOTFS, make_image("linux", Place.LINUX), make_image("initrd", Place.INITRD)),
    boot=BootEntryTemplate("Gateway 2.0", f"roothash={ROOTFS.tree.root} quiet"),
)
RAW = dump_manifest(MANIFEST)


def edited(path: str, value: object) -> bytes:
    """RAW with one field replaced (`images.0.tree.salt`), in canonical spelling."""
    document = json.loads(RAW)
    *way, last = path.split(".")
    place = document
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    place[last] = value
    return canonical(document)


def canonical(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_round_trip():
    assert parse_manifest(RAW) == MANIFEST


def test_spelling_is_that_of_any_sorted_compact_json_writer():
    # Somebody else's publisher can make the same bytes.
    assert canonical(json.loads(RAW)) == RAW


def test_the_documented_fields_are_there():
    document = json.loads(RAW)
    assert document["format"] == "slipstream-manifest-1"
    assert document["images"][0]["tree"] == {
        "hash_type": 1,
        "algorithm": "sha256",
        "data_block_size": 4096,
        "hash_block_size": 4096,
        "data_blocks": 2,
        "salt": SALT.hex(),
        "image_size": 5000,
        "root": ROOTFS.tree.root.hex,
    }
    assert document["images"][0]["full"] == {
        "index": ROOT.hex,
        "index_size": 100,
        "payload_size": 4000,
    }


@pytest.mark.parametrize(
    "spelling",
    [
        lambda raw: raw + b"\n",
        lambda raw: b" " + raw,
        lambda raw: raw.replace(b":", b": ", 1),
        lambda raw: raw.replace(b'"counter":2', b'"counter":2,"counter":2'),
        lambda raw: raw.replace(b'"counter":2', b'"counter":1,"counter":2'),
        lambda raw: raw.replace(b'"counter":2', b'"counter":2.0'),
        lambda raw: raw.replace(b'"counter":2', b'"counter":2e0'),
        lambda raw: raw.replace(b'"stable"', b'"\\u0073table"'),
        lambda raw: raw.replace("ö".encode(), b"\\u00f6"),
        lambda raw: raw.replace(b'{"boot"', b'{"format":"slipstream-manifest-1","boot"'),
        lambda raw: raw.replace(ROOT.hex.encode(), ROOT.hex.upper().encode()),
        lambda raw: raw.replace(b'"stable"', b'"stable","later":1'),
        lambda raw: raw + RAW,
        lambda raw: raw[:-1],
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.replace("ö".encode(), b"\xf6"),
        lambda raw: raw.replace("ö".encode(), b"\\ud800"),
        lambda _raw: b"",
        lambda _raw: b"null",
        lambda _raw: b"[]",
        lambda _raw: b"[" * 200_000,
        lambda _raw: b'{"images":' * 20_000,
    ],
)
def test_any_other_spelling_is_refused(spelling):
    raw = spelling(RAW)
    assert raw != RAW
    with pytest.raises(FormatError):
        parse_manifest(raw)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "slipstream-manifest-2"),
        ("extra", 1),
        ("images.0.extra", 1),
        ("images.0.tree.levels", 3),
        ("product", ""),
        ("product", "Gateway"),
        ("product", "a/b"),
        ("product", ".."),
        ("product", "a..b"),
        ("product", ".hidden"),
        ("product", "-rf"),
        ("product", "a\n"),
        ("product", "a\0"),
        ("product", "é"),
        ("product", "x" * (NAME_CHARS_MAX + 1)),
        ("product", 5),
        ("product", None),
        ("release", "2.0 beta"),
        ("channel", "../x"),
        ("hardware", ["x86-64", "x86-64"]),
        ("hardware", ["X"]),
        ("hardware", "x86-64"),
        ("hardware", [f"h{n}" for n in range(65)]),
        ("counter", 0),
        ("counter", -1),
        ("counter", COUNTER_MAX + 1),
        ("counter", 2**70),
        ("counter", True),
        ("counter", "2"),
        ("counter", 2.5),
        ("floor", 3),
        ("floor", -1),
        ("issued", -1),
        ("issued", 253_402_300_800),
        ("notes", "\x1b[2J"),
        ("notes", "tab\t"),
        ("notes", "\u202egnp.exe"),
        ("notes", "x" * (NOTES_CHARS_MAX + 1)),
        ("images", []),
        ("images.1.name", "rootfs"),
        ("images.0.name", "root/fs"),
        ("images.0.place", "esp"),
        ("images.0.tree.hash_type", 0),
        ("images.0.tree.algorithm", "sha512"),
        ("images.0.tree.data_block_size", 1024),
        ("images.0.tree.hash_block_size", 1024),
        ("images.0.tree.data_blocks", 1),
        ("images.0.tree.data_blocks", 3),
        ("images.0.tree.salt", ""),
        ("images.0.tree.salt", SALT.hex()[:-2]),
        ("images.0.tree.salt", SALT.hex() + "00"),
        ("images.0.tree.image_size", 0),
        ("images.0.tree.image_size", 2**63),
        ("images.0.tree.root", "00"),
        ("images.0.tree.root", "zz" * 32),
        ("images.0.chunks", "00" * 31),
        ("images.0.full.index", "00" * 33),
        ("images.0.full.index_size", 0),
        ("images.0.full.index_size", 2**40),
        ("images.0.full.payload_size", 99),
        ("boot.title", ""),
        ("boot.title", "two\nlines"),
        ("boot.title", "x" * 129),
        ("boot.title", "Gateway é"),
        ("boot.options", "quiet\ninit=/bin/sh"),
        ("boot.options", " quiet"),
        ("boot.options", "x" * (BOOT_OPTIONS_CHARS_MAX + 1)),
        ("boot.options", f"roothash={ROOT}"),
        ("boot.options", f"quiet usrhash={ROOT}"),
        ("boot.options", "roothash="),
        ("boot.options", f'"roothash={ROOT}"'),
        ("boot.options", f'quiet root"hash={ROOT} ro"'),
        ("boot.options", f"quiet 'usrhash={ROOT}'"),
        ("boot.options", f"roothash={ROOTFS.tree.root} roothash={ROOT}"),
        ("boot.options", ""),
    ],
)
def test_values_that_cannot_be_are_refused(path, value):
    with pytest.raises(FormatError):
        parse_manifest(edited(path, value))


def test_edited_makes_good_manifests_too():
    # Otherwise the test above would pass whatever the checks are.
    assert parse_manifest(edited("counter", 7)).counter == 7
    assert parse_manifest(edited("notes", "line\nline")).notes == "line\nline"


@pytest.mark.parametrize(
    ("places", "options", "good"),
    [
        ([Place.PARTITION], "", True),
        ([Place.PARTITION, Place.UKI], "", True),
        ([Place.UKI], "", True),
        ([Place.LINUX], "quiet", True),
        ([Place.LINUX, Place.INITRD], "quiet", True),
        ([Place.UKI], "quiet", False),
        ([Place.LINUX], "", False),
        ([Place.UKI, Place.UKI], "", False),
        ([Place.LINUX, Place.LINUX], "quiet", False),
        ([Place.LINUX, Place.INITRD, Place.INITRD], "quiet", False),
        ([Place.UKI, Place.LINUX], "quiet", False),
        ([Place.UKI, Place.INITRD], "", False),
        ([Place.PARTITION, Place.INITRD], "quiet", False),
        ([Place.PARTITION] * MANIFEST_IMAGES_MAX, "", True),
        ([Place.PARTITION] * (MANIFEST_IMAGES_MAX + 1), "", False),
    ],
)
def test_boot_files_fit_together(places, options, good):
    images = tuple(make_image(f"i{number}", place) for number, place in enumerate(places))

    def make() -> Manifest:
        return replace(MANIFEST, images=images, boot=BootEntryTemplate("t", options))

    if good:
        assert parse_manifest(dump_manifest(make())).images == images
    else:
        with pytest.raises(FormatError):
            make()


def test_a_manifest_too_large_is_not_parsed():
    with pytest.raises(FormatError, match="too large"):
        parse_manifest(RAW + b" " * MANIFEST_BYTES_MAX)


def test_images_are_found_by_name():
    assert MANIFEST.image("rootfs") is ROOTFS
    with pytest.raises(FormatError, match="no image 'usr'"):
        MANIFEST.image("usr")


@given(st.binary(max_size=300))
def test_hostile_bytes_raise_only_our_errors(raw):
    with pytest.raises(Rejected):
        parse_manifest(raw)


@given(st.integers(0, len(RAW) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_another_manifest_or_refused(position, bit):
    raw = bytearray(RAW)
    raw[position] ^= 1 << bit
    try:
        manifest = parse_manifest(bytes(raw))
    except Rejected:
        return
    assert manifest != MANIFEST
    assert dump_manifest(manifest) == bytes(raw)
