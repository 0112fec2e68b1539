"""erofs: images of mkfs.erofs read back file by file, and hostile ones refused."""

import lzma
import random
import struct
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import EntryKind, FileMap, Packing
from slipstream.delta.filesystem import erofs, erofs_content
from slipstream.delta.filesystem.erofs import read_erofs
from tests.delta.filesystem.packed_images import (
    MemoryImage,
    check_files,
    check_map,
    make_golden_tree,
    make_tree,
    unpack,
)

FEATURES = 1024 + 80  # where the features that a reader must know stand


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("erofs") / "files")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few files, for what is done to an image many times."""
    folder = tmp_path_factory.mktemp("erofs") / "small"
    (folder / "below" / "deeper").mkdir(parents=True)
    (folder / "text").write_bytes(b"some words, " * 20_000)
    (folder / "below" / "noise").write_bytes(random.Random(2).randbytes(20_000))
    (folder / "below" / "deeper" / "tail").write_bytes(b"the tail of it")
    return folder


def make_image(folder: Path, *options: str) -> MemoryImage:
    path = folder.with_suffix(".erofs")
    path.unlink(missing_ok=True)
    subprocess.run(
        ["mkfs.erofs", "--quiet", *options, path, folder],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return MemoryImage(path.read_bytes())


def check(image: MemoryImage, folder: Path) -> FileMap:
    found = read_erofs(image)
    assert found.notes == []
    check_map(image, found)
    check_files(image, found, folder)
    for block in found.blocks:
        packed = image.read(block.place.offset, block.place.size)
        assert len(unpack(block.packing, packed, block.size)) == block.size
    return found


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-Enoinline_data"],
        ["-Eforce-inode-extended"],
        ["-x-1"],
        ["--chunksize=4096"],
        ["--chunksize=65536"],
        ["--chunksize=4096", "-Eforce-chunk-indexes"],
        ["-zlz4"],
        ["-zlz4hc"],
        ["-zlz4hc,12", "-C65536"],
        ["-zlz4", "-C1048576"],
        ["-zlz4", "-Enoinline_data"],
        ["-zlz4", "-Eforce-inode-extended"],
        ["-zlz4", "-Eztailpacking"],
        ["-zlz4hc", "-Eztailpacking", "-C65536"],
        ["-zlz4hc", "--max-extent-bytes=8192"],
    ],
    ids=" ".join,
)
def test_every_file(folder: Path, options: list[str]) -> None:
    check(make_image(folder, *options), folder)


# Images of mkfs.erofs 1.8.6, for what 1.5 does not make yet, of packed_images.make_golden_tree:
#     mkfs.erofs -T1 -U 00000000-0000-4000-8000-000000000000 --all-root OPTIONS NAME.erofs FOLDER
GOLDEN = {
    "lz4-fragments": ("-zlz4 -Efragments", Packing.LZ4_PADDED),
    "lzma-tails": ("-b1024 -zlzma -C16384 -Eztailpacking", Packing.MICROLZMA),
    "deflate-fragments": ("-b1024 -zdeflate,level=9 -C8192 -Eall-fragments", Packing.DEFLATE),
    "zstd-dedupe-tails": (
        "-b1024 -zzstd,level=9 -C8192 -Ededupe,ztailpacking",
        Packing.ZSTD_PADDED,
    ),
}


def read_golden(name: str) -> MemoryImage:
    path = Path(__file__).parent / "erofs-1.8.6" / f"{name}.erofs.xz"
    return MemoryImage(lzma.decompress(path.read_bytes()))


@pytest.mark.parametrize("name", GOLDEN)
def test_every_file_of_a_newer_mkfs(tmp_path: Path, name: str) -> None:
    found = check(read_golden(name), make_golden_tree(tmp_path))
    assert {block.packing for block in found.blocks} == {GOLDEN[name][1]}


def test_fragments_are_extents_of_shared_clusters() -> None:
    found = read_erofs(read_golden("deflate-fragments"))
    small = [entry for entry in found.entries if entry.path.startswith("small/")]
    assert len(small) == 5
    assert all(extent.block is not None for entry in small for extent in entry.extents)
    assert len({extent.block for entry in small for extent in entry.extents}) < len(small)


def test_a_part_of_a_cluster_does_not_say_how_long_it_is() -> None:
    """`text` uses the first 17,000 bytes of a cluster that `begin` made, with 540 bytes of noise."""
    found = read_erofs(read_golden("zstd-dedupe-tails"))
    entries = {entry.path: entry for entry in found.entries}
    first = entries["text"].extents[0]
    assert first.block == entries["begin"].extents[0].block == 0
    assert (first.size, found.blocks[0].size) == (17_000, 17_540)


@pytest.mark.parametrize(
    "name, hints",
    [
        ("lz4-fragments", {"block_size": 4096, "max_distance": 65535}),
        ("lzma-tails", {"block_size": 1024, "dict_size": 65536}),
        ("deflate-fragments", {"block_size": 1024, "window": 15}),
        ("zstd-dedupe-tails", {"block_size": 1024, "window_log": 16}),
    ],
)
def test_hints_are_the_settings_of_the_compressor(name: str, hints: dict[str, int]) -> None:
    assert read_erofs(read_golden(name)).hints == hints


def test_clusters_of_many_blocks_are_found_whole(folder: Path) -> None:
    found = check(make_image(folder, "-zlz4hc", "-C65536"), folder)
    sizes = {block.place.size for block in found.blocks}
    assert max(sizes) == 65536
    assert found.hints["max_cluster_blocks"] == 16


def test_equal_chunks_share_their_bytes(folder: Path) -> None:
    found = check(make_image(folder, "--chunksize=4096"), folder)
    entries = {entry.path: entry for entry in found.entries}
    twins = entries["twin-1"].extents, entries["twin-2"].extents
    assert twins[0] == twins[1]


def test_an_image_without_zero_padding_is_refused(folder: Path) -> None:
    with pytest.raises(FormatError, match="zero padding"):
        read_erofs(make_image(folder, "-zlz4", "-Elegacy-compress"))


def test_a_full_index(small: Path) -> None:
    """mkfs.erofs 1.5 makes full indexes only of clusters padded behind: so the padding is moved."""
    image = make_image(small, "-zlz4", "-Elegacy-compress")
    data = bytearray(image.data)
    data[FEATURES] |= 1
    for block in read_erofs(MemoryImage(bytes(data))).blocks:
        place = slice(block.place.offset, block.place.end)
        data[place] = data[place].rstrip(b"\0").rjust(block.place.size, b"\0")
    check(MemoryImage(bytes(data)), small)


def test_metadata_is_one_table_of_whole_blocks(small: Path) -> None:
    image = make_image(small)
    table = next(entry for entry in read_erofs(image).entries if entry.kind is EntryKind.TABLE)
    assert table.path == "metadata"
    assert all(extent.place % 4096 == extent.size % 4096 == 0 for extent in table.extents)
    content = b"".join(image.read(extent.place, extent.size) for extent in table.extents)
    assert image.data[1024:1152] in content
    assert b"deeper" in content


# --- hostile images


def mutate(image: MemoryImage, offset: int, data: bytes) -> MemoryImage:
    return MemoryImage(image.data[:offset] + data + image.data[offset + len(data) :])


@pytest.fixture(scope="module")
def targets(small: Path) -> list[tuple[MemoryImage, list[int]]]:
    """Images, and the places of their metadata."""
    images = [
        *(read_golden(name) for name in GOLDEN),
        make_image(small, "--chunksize=4096"),
        make_image(small, "-zlz4hc", "-C16384"),
    ]
    return [(image, metadata_places(image)) for image in images]


def metadata_places(image: MemoryImage) -> list[int]:
    table = next(entry for entry in read_erofs(image).entries if entry.kind is EntryKind.TABLE)
    return [
        place
        for extent in table.extents
        for place in range(max(1024, extent.place), extent.place + extent.size)
        if image.data[place]
    ]


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_flipped_bytes_raise_only_our_errors(
    targets: list[tuple[MemoryImage, list[int]]], data: st.DataObject
) -> None:
    image, places = data.draw(st.sampled_from(targets))
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        image = mutate(image, place, data.draw(st.binary(min_size=1, max_size=8)))
    try:
        found = read_erofs(image)
    except FormatError:
        return
    check_map(image, found)


def test_cut_short() -> None:
    image = read_golden("lzma-tails")
    for size in (*range(0, 2048, 7), *range(2048, image.size, 997)):
        with pytest.raises(FormatError):
            read_erofs(MemoryImage(image.data[:size]))


@pytest.mark.parametrize(
    "name, offset, value",
    [
        ("magic", 0, b"SFRE"),
        ("blocks of 16 GiB", 12, b"\x22"),
        ("blocks of 256 bytes", 12, b"\x08"),
        ("root", 14, b"\xff\xff"),
        ("more blocks than the image has", 36, b"\xff" * 4),
        ("metadata behind the image", 40, b"\xff" * 4),
        ("features of tomorrow", 80, struct.pack("<I", 0x80)),
        ("compressors of tomorrow", 84, b"\xff\xff"),
        ("directories of larger blocks", 90, b"\1"),
        ("no packed file", 96, bytes(8)),
        ("packed file behind the image", 96, b"\xff" * 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_superblocks(name: str, offset: int, value: bytes) -> None:
    with pytest.raises(FormatError):
        read_erofs(mutate(read_golden("deflate-fragments"), 1024 + offset, value))


def test_a_directory_that_holds_its_parent(small: Path) -> None:
    image = make_image(small)
    names = image.data.index(b"...deepernoise")  # behind four records of 12 bytes
    (root,) = struct.unpack_from("<H", image.data, 1024 + 14)
    with pytest.raises(FormatError, match="two names"):
        read_erofs(mutate(image, names - 24, struct.pack("<Q", root)))


@pytest.mark.parametrize(
    "module, limit",
    [
        (erofs, "EROFS_DIRECTORY_BYTES_MAX"),
        (erofs_content, "EROFS_INDEX_BYTES_MAX"),
        (erofs_content, "EROFS_CLUSTER_BYTES_MAX"),
        (erofs_content, "EROFS_CLUSTER_UNPACKED_BYTES_MAX"),
    ],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, module: ModuleType, limit: str) -> None:
    monkeypatch.setattr(module, limit, 100)
    with pytest.raises(FormatError, match=r"<= 100 bytes|1\.\.100,|, 100 unpacked"):
        read_erofs(read_golden("zstd-dedupe-tails"))
