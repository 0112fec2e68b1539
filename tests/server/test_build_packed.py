"""build.py on images of every kind that is opened: the same target, and a far smaller payload."""

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from slipstream.delta.filesystem.erofs import read_erofs
from slipstream.delta.limits import FRAME_ENCODED_BYTES_SOFT, MIB
from slipstream.delta.payload import Index
from slipstream.delta.profile import DEVICE_BASE_BYTES, PROFILES
from slipstream.server.build import build_payload
from slipstream.server.patch import apply_payload
from tests.delta.packing.samples import Image, content
from tests.server.image_pairs import Pair, code, hide_format, make_image, make_trees, packed

# How many times smaller a payload is than one that takes the same images for plain bytes: at the
# least. Literals of LZ4 and LZO stand as they are in what they pack, so little is hidden by them.
_GAINS = {
    "ext4": 10,
    "squashfs gzip": 5,
    "squashfs xz": 10,
    "squashfs zstd": 10,
    "squashfs lz4": 2,
    "squashfs lzo": 1.5,
    "erofs lz4": 1.2,
    "erofs lz4hc": 1.5,
    "uki": 10,
}
_NESTED = {"ext4", "squashfs gzip", "uki"}  # images of trees with compressed files in them

ImagePairs = Callable[[str], Pair]


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> ImagePairs:
    """Images of both releases, by kind; made when they are first asked for."""
    folder = tmp_path_factory.mktemp("images")

    @cache
    def trees(*, nested: bool) -> Pair:
        return make_trees(folder / f"nested-{nested}", nested=nested)

    @cache
    def images(kind: str) -> Pair:
        held = trees(nested=kind in _NESTED)
        name = kind.replace(" ", "-")
        return Pair(
            make_image(kind, held.source, folder / f"{name}.source"),
            make_image(kind, held.target, folder / f"{name}.target"),
        )

    return images


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _build(folder: Path, pair: Pair, **options: object) -> Index:
    """The index of a payload that was seen to make the target."""
    settings = {"jobs": 1, "memory_bytes": 96 * MIB, "profile": "fast", **options}
    built = build_payload(pair.source, pair.target, folder / "payload", **settings)
    apply_payload(pair.source, folder / "payload", folder / "made")
    assert _digest(folder / "made") == _digest(pair.target)
    return built.index


@pytest.mark.parametrize("kind", _GAINS)
def test_what_is_packed_is_opened(tmp_path: Path, pair_of: ImagePairs, kind: str) -> None:
    pair = pair_of(kind)
    opened = _build(tmp_path, pair)
    hidden = _build(
        tmp_path,
        Pair(
            hide_format(kind, pair.source, tmp_path / "source"),
            hide_format(kind, pair.target, tmp_path / "target"),
        ),
    )
    assert opened.libraries
    assert not hidden.libraries
    assert opened.payload_size * _GAINS[kind] < hidden.payload_size


@pytest.mark.parametrize("memory", [96 * MIB, 512 * MIB], ids=["96 MiB", "512 MiB"])
@pytest.mark.parametrize("profile", PROFILES)
def test_frames_keep_to_their_limits(
    tmp_path: Path, pair_of: ImagePairs, profile: str, memory: int
) -> None:
    index = _build(tmp_path, pair_of("ext4"), profile=profile, memory_bytes=memory)
    assert index.memory_bytes + DEVICE_BASE_BYTES <= memory
    assert max(frame.encoded.size for frame in index.frames) <= FRAME_ENCODED_BYTES_SOFT


def test_the_same_bytes_whatever_the_jobs(tmp_path: Path, pair_of: ImagePairs) -> None:
    digests = set()
    for jobs in (1, 2, 3):
        _build(tmp_path, pair_of("ext4"), jobs=jobs)
        digests.add(_digest(tmp_path / "payload"))
    assert len(digests) == 1


def test_a_long_stream_is_read_and_made_over_several_frames(
    tmp_path: Path, pair_of: ImagePairs
) -> None:
    index = _build(tmp_path, pair_of("ext4"), memory_bytes=DEVICE_BASE_BYTES + 24 * MIB)
    assert index.streams.long
    long = [frame for frame in index.frames if frame.parts and not frame.parts[0].is_whole]
    assert len(long) > 1


def test_streams_whose_tails_stand_elsewhere(tmp_path: Path) -> None:
    """erofs stores what hardly packs as it is, and the end of it in the file's inode."""
    trees = make_trees(tmp_path, nested=True)
    for tree in (trees.source, trees.target):
        shutil.rmtree(tree / "boot")
        shutil.rmtree(tree / "lib")
    pair = Pair(
        make_image("erofs lz4hc", trees.source, tmp_path / "1"),
        make_image("erofs lz4hc", trees.target, tmp_path / "2"),
    )
    image = Image(pair.target.read_bytes())
    documents = [one for one in read_erofs(image).entries if one.path.endswith(".gz")]
    assert sum(len(one.extents) == 2 for one in documents) == len(documents) > 0
    opened = _build(tmp_path, pair)
    bodies = sum(one.extents[0].size for one in documents)
    assert any(name.startswith("gzip") for name in opened.libraries)
    assert any(part.packed_size == 0 for frame in opened.frames for part in frame.outer)
    assert opened.payload_size < bodies


def test_a_compressed_file_that_is_the_same_is_copied(tmp_path: Path) -> None:
    """mksquashfs leaves it as it is, at another place; its content would take many times as much."""
    words = np.random.default_rng(5).integers(97, 123, 400_000, dtype=np.uint8).tobytes()
    same = gzip.compress(words, mtime=0)
    for name, before in (("source", 20_000), ("target", 30_001)):
        tree = tmp_path / f"{name}.tree"
        tree.mkdir()
        (tree / "a").write_bytes(np.random.default_rng(6).bytes(before))
        (tree / "b.gz").write_bytes(same)
        command = ["mksquashfs", str(tree), str(tmp_path / name), "-comp", "gzip", "-noappend"]
        subprocess.run([*command, "-no-fragments", "-quiet", "-no-progress"], check=True)
    index = _build(tmp_path, Pair(tmp_path / "source", tmp_path / "target"))
    assert not index.streams.long
    assert index.payload_size < 10_001 + 4000


def test_a_kernel_in_legacy_lz4(tmp_path: Path) -> None:
    """Several blocks of 8 MiB, with a long run of zeros, a size behind them, and then other bytes."""
    kernel = bytearray(content(3 * MIB) + bytes(10 * MIB) + content(4 * MIB))
    images = []
    for number in range(2):
        behind = len(kernel).to_bytes(4, "little") + code(3, 20_000, later=bool(number))
        path = tmp_path / f"kernel-{number}"
        path.write_bytes(b"MZ" + bytes(510) + packed("lz4 -l -9", kernel) + behind)
        images.append(path)
        for at in range(0, 17 * MIB, 499):  # something in each function, but not in the zeros
            if not 3 * MIB <= at < 13 * MIB:
                kernel[at] = (kernel[at] + 4) & 0xFF
    opened = _build(tmp_path, Pair(*images), memory_bytes=144 * MIB)
    assert opened.libraries == (next(one for one in opened.libraries if "liblz4" in one),)
    assert opened.memory_bytes + DEVICE_BASE_BYTES <= 144 * MIB
    assert len(opened.streams.long) == 1
    said: list[str] = []
    hidden = _build(tmp_path, Pair(*images), memory_bytes=96 * MIB, say=said.append)
    assert not hidden.libraries  # too little for its blocks
    (words,) = [line for line in said if "stays packed" in line]
    start = f"target {images[1]}: what is packed at byte 512 (lz4 -l) stays packed: "
    assert words.startswith(start)
    needed = int(words.partition("--memory ")[2].partition("MiB at least")[0])
    assert _build(tmp_path, Pair(*images), memory_bytes=needed * MIB).libraries
    assert not _build(tmp_path, Pair(*images), memory_bytes=(needed - 1) * MIB).libraries
    assert opened.payload_size * 4 < hidden.payload_size
