"""Every kind of image can be made of a tree, twice the same; what a machine cannot make, it says."""

import os
import subprocess
from pathlib import Path

import pytest

from benches.corpus import digest_of
from benches.kinds import KINDS, Kind, make_image, missing_for
from slipstream.delta.errors import SlipstreamError
from tests.benches.trees import CHANGED, make_trees

SIZE_BYTES = 8 << 20
# What an image of a family begins with: offset and bytes.
MAGIC = {
    "ext4": (0x438, b"\x53\xef"),
    "erofs": (0x400, b"\xe2\xe1\xf5\xe0"),
    "squashfs": (0, b"hsqs"),
    "uki": (0, b"MZ"),
    "kernel": (0, b""),
    "initrd-gzip": (0, b"\x1f\x8b"),
    "initrd-zstd": (0, b"\x28\xb5\x2f\xfd"),
    "initrd-xz": (0, b"\xfd7zXZ"),
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_trees(tmp_path_factory.mktemp("trees"))


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_kind_is_made_twice_the_same(
    kind: Kind, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    if missing_for(kind) is not None or (kind.newer_erofs and not has_newer_erofs()):
        with pytest.raises(SlipstreamError):
            make_target(kind, trees, first)
        assert not first.exists()
        return

    make_target(kind, trees, first)

    offset, magic = MAGIC.get(kind.name) or MAGIC[kind.name.partition("-")[0]]
    assert first.read_bytes()[offset:].startswith(magic)
    if not kind.mounts:  # the kernel's clock gets into an image that it wrote
        read_at_another_time(trees[1])
        make_target(kind, trees, second)
        assert digest_of(first) == digest_of(second)


@pytest.mark.parametrize("name", ["squashfs-lz4", "squashfs-xz-1m"])
def test_the_target_differs_from_the_source(
    name: str, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    images = tmp_path / "source.img", tmp_path / "target.img"
    for root, image in zip(trees, images, strict=True):
        make_image(KINDS[name], root, SIZE_BYTES, image, None)

    assert digest_of(images[0]) != digest_of(images[1])


def test_an_image_that_was_written_to_holds_the_target(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    kind = KINDS["ext4-written"]
    if missing_for(kind) is not None:
        return  # test_a_kind_is_made_twice_the_same has seen the refusal
    image = tmp_path / "target.img"

    make_target(kind, trees, image)

    assert (
        subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode == 0
    )
    text = subprocess.run(
        ["debugfs", "-R", f"cat /{CHANGED}", image], capture_output=True, check=True
    ).stdout
    assert text == (trees[1] / CHANGED).read_bytes()


def has_newer_erofs() -> bool:
    """Debian 12's mkfs.erofs does not know the option -V; 1.8, with all codecs, does."""
    return subprocess.run(["mkfs.erofs", "-V"], capture_output=True, check=False).returncode == 0


def read_at_another_time(root: Path) -> None:
    for path in root.rglob("*"):
        status = path.lstat()
        os.utime(path, ns=(0, status.st_mtime_ns), follow_symlinks=False)


def make_target(kind: Kind, trees: tuple[Path, Path], image: Path) -> None:
    before = None
    if kind.follows:
        before = image.with_name(f"before-{image.name}")
        make_image(kind, trees[0], SIZE_BYTES, before, None)
    make_image(kind, trees[1], SIZE_BYTES, image, before)
