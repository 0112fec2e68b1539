"""build.py on images that are not what they say: nothing raises, and the target is right."""

import gzip
import itertools
import lzma
import random
import zlib
from pathlib import Path

import pytest
import zstandard

from slipstream.delta.limits import KIB, MIB
from slipstream.server.build import BuiltPayload, build_payload
from slipstream.server.patch import apply_payload
from tests.server.image_pairs import archive, code, initrd, make_image, make_trees, packed


def _build(folder: Path, source: bytes, target: bytes) -> BuiltPayload:
    """A payload that was seen to make the target."""
    (folder / "source").write_bytes(source)
    (folder / "target").write_bytes(target)
    paths = (folder / "source", folder / "target", folder / "payload")
    built = build_payload(*paths, jobs=1, memory_bytes=96 * MIB, profile="fast")
    apply_payload(paths[0], paths[2], folder / "made")
    assert (folder / "made").read_bytes() == target
    return built


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Source and target image by kind."""
    folder = tmp_path_factory.mktemp("images")
    trees = make_trees(folder / "trees", nested=False)
    made = {}
    for kind in ("squashfs gzip", "squashfs xz", "erofs lz4", "ext4"):
        name = kind.replace(" ", "-")
        (folder / name).mkdir()
        paths = [
            make_image(kind, tree, folder / name / tree.name)
            for tree in (trees.source, trees.target)
        ]
        made[kind] = (paths[0].read_bytes(), paths[1].read_bytes())
    return made


@pytest.mark.parametrize("kind", ["squashfs gzip", "squashfs xz", "erofs lz4", "ext4"])
@pytest.mark.parametrize("seed", range(3))
def test_file_systems_that_lie(
    tmp_path: Path, images: dict[str, tuple[bytes, bytes]], kind: str, seed: int
) -> None:
    """Behind the superblock bytes are hurt: maps, blocks and tables say what is not so."""
    chance = random.Random(seed)
    hurt = []
    for image in images[kind]:
        data = bytearray(image)
        for _ in range(200):
            at = chance.randrange(2048, len(data))
            data[at] ^= 1 << chance.randrange(8)
        # tables stand at the end of a squashfs, and near the beginning of the others
        for at in (*range(4096, 8192, 97), *range(len(data) - 2000, len(data), 61)):
            data[at] = chance.randrange(256)
        hurt.append(bytes(data))
    _build(tmp_path, *hurt)


def test_one_image_is_cut_short(tmp_path: Path, images: dict[str, tuple[bytes, bytes]]) -> None:
    source, target = images["squashfs gzip"]
    _build(tmp_path, source, target[:-5000])
    _build(tmp_path, source[: len(source) // 2], target)


def test_blocks_that_do_not_unpack_stay_packed(
    tmp_path: Path, images: dict[str, tuple[bytes, bytes]]
) -> None:
    source, good = images["squashfs gzip"]
    target = bytearray(good)
    at = target.index(b"\x78\xda", 200)  # the header of the second zlib stream or so
    target[at + 300 : at + 330] = bytes(30)
    built = _build(tmp_path, source, bytes(target))
    assert built.index.recipes
    assert built.payload_size < len(target) // 4


def _member(name: str, data: bytes, pad: int = 0) -> bytes:
    return archive({name: data, "pad": random.Random(pad).randbytes(80 * KIB)})


def test_bombs_stay_packed(tmp_path: Path) -> None:
    """A thousand times their size, in the source, in the target, and in both."""
    bombs = [
        _member("bomb", made)
        for made in (
            gzip.compress(bytes(50 * MIB), 9, mtime=0),
            gzip.compress(bytes(51 * MIB), 9, mtime=0),
            lzma.compress(bytes(60 * MIB), preset=0),
        )
    ]
    for source, target in itertools.permutations(bombs, 2):
        built = _build(tmp_path, source, target)
        assert not built.index.recipes
        assert len(built.index.streams) == 0


@pytest.mark.parametrize("junk", [b"\0" * 1000, b"\x1f\x8b\x08\0junk", b"x" * 70_000])
def test_junk_behind_a_stream_is_no_harm(tmp_path: Path, junk: bytes) -> None:
    source, target = (
        _member("doc.gz", packed("gzip -n -9", code(1, 400_000, later=later)) + junk)
        for later in (False, True)
    )
    built = _build(tmp_path, source, target)
    assert built.index.libraries
    assert built.payload_size < len(target) // 20


def test_magic_numbers_inside_other_streams(tmp_path: Path) -> None:
    """Stored deflate blocks hold the whole of another stream; each begins like one more."""
    files = []
    for later in (False, True):
        inner = zstandard.compress(code(3, 200_000, later=later))
        middle = lzma.compress(inner + b"\xfd7zXZ\0" + bytes(2000), preset=0)
        stored = zlib.compressobj(0, wbits=31)
        outer = stored.compress(middle + b"\x1f\x8b\x08\0" * 100) + stored.flush()
        files.append(_member("nested", b"\x28\xb5\x2f\xfd" * 3 + outer + b"\x28\xb5\x2f\xfd"))
    _build(tmp_path, *files)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_initrd_that_ends_early(tmp_path: Path, kept: float) -> None:
    """Long enough for a cursor, in the source, in the target, and in both."""
    source, target = (packed("gzip -n -6", initrd(later=later)) for later in (False, True))
    short_source, short_target = (one[: int(len(one) * kept)] for one in (source, target))
    pad = random.Random(1).randbytes(80 * KIB)
    _build(tmp_path, short_source, target)
    _build(tmp_path, source + pad, short_target)
    _build(tmp_path, short_source, short_target + pad)


def test_streams_of_no_content(tmp_path: Path) -> None:
    empty = [gzip.compress(b"", mtime=0), lzma.compress(b""), zstandard.compress(b"")]
    image = archive({f"empty-{n}": data for n, data in enumerate(empty * 20)})
    pad = random.Random(5).randbytes(100 * KIB)
    _build(tmp_path, image + pad, image[:512] + gzip.compress(b"x", mtime=0) + image + pad)
