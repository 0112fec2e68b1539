"""Releases made of any two images."""

from pathlib import Path

import pytest

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.releases import HEAD_BYTES, given_releases


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that has the kernels."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("vmlinuz-1", "vmlinuz-2"):
        (folder / name).write_bytes(b"MZ kernel")
    return folder


@pytest.mark.parametrize("size_bytes", [1, HEAD_BYTES, HEAD_BYTES + 1])
def test_broken_release_is_the_second_without_its_head(cache: Path, size_bytes: int) -> None:
    source, target = cache / "a.img", cache / "b.img"
    source.write_bytes(b"a" * 100)
    target.write_bytes(b"b" * size_bytes)

    releases = given_releases(source, target, cache, print)

    zeros = min(size_bytes, HEAD_BYTES)
    assert releases.broken.image.read_bytes() == bytes(zeros) + b"b" * (size_bytes - zeros)
    assert target.read_bytes() == b"b" * size_bytes
    found = (releases.first, releases.second, releases.broken)
    assert [one.version for one in found] == ["1", "2", "3"]
    assert [one.image for one in found[:2]] == [source, target]
    assert releases.squashfs is None


@pytest.mark.parametrize("missing", ["a.img", "b.img"])
def test_what_is_not_an_image_is_refused(cache: Path, missing: str) -> None:
    images = [cache / "a.img", cache / "b.img"]
    for image in images:
        image.write_bytes(b"" if image.name == missing else b"image")

    with pytest.raises(SlipstreamError, match=f"{missing}: not an image file"):
        given_releases(*images, cache, print)
