"""erofs: images of mkfs.erofs read back file by file, and hostile ones refused."""

import random
import subprocess
from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import FileMap
from slipstream.delta.filesystem.erofs import read_erofs
from tests.delta.filesystem.packed_images import (
    MemoryImage,
    check_files,
    check_map,
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
