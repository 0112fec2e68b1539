"""Images of one tree: the same files in ext4 and in squashfs, and a broken release made of one."""

import json
import subprocess
from pathlib import Path

import pytest

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.images import APPLICATION, RELEASE_FILE, make_images, spoil
from slipstream.demo.tools import SOURCE_DATE_EPOCH
from tests.demo.trees import EXT4_BYTES, make_pair


def of_ext4(image: Path, path: str | Path) -> str:
    return run("debugfs", "-R", f"cat /{path}", str(image))


def of_squashfs(image: Path, path: str | Path) -> str:
    return run("sqfscat", str(image), str(path))


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_both_images_hold_the_tree_and_the_application(tmp_path: Path) -> None:
    ext4, squashfs = make_pair(tmp_path, 2)

    assert ext4.stat().st_size == EXT4_BYTES
    for read, image in ((of_ext4, ext4), (of_squashfs, squashfs)):
        assert read(image, "etc/hostname") == "gateway\n"
        assert "gateway 2: self-test passed" in read(image, APPLICATION)
        assert json.loads(read(image, RELEASE_FILE))["counter"] == 2


def test_no_file_is_a_device_or_newer_than_the_fixed_date(tmp_path: Path) -> None:
    _, squashfs = make_pair(tmp_path, 1)

    # mode, owner, size, date, time, name
    files = [line.split() for line in run("unsquashfs", "-UTC", "-lls", str(squashfs)).splitlines()]
    files = [words for words in files if words[-1].startswith("squashfs-root/")]

    assert "squashfs-root/etc/hostname" in {words[-1] for words in files}
    assert [words[-1] for words in files if words[-1].startswith("squashfs-root/dev/")] == []
    fixed = run("date", "-u", "-d", f"@{SOURCE_DATE_EPOCH}", "+%Y-%m-%d %H:%M").strip()
    assert {f"{words[3]} {words[4]}" for words in files} == {fixed}


def test_spoiled_release_fails_its_self_test(tmp_path: Path) -> None:
    image, _ = make_pair(tmp_path, 2)
    before = image.read_bytes()
    broken = tmp_path / "broken"

    spoil(image, broken, 3)

    assert image.read_bytes() == before
    assert json.loads(of_ext4(broken, RELEASE_FILE))["counter"] == 3
    ran = subprocess.run(["sh", "-c", of_ext4(broken, APPLICATION)], capture_output=True, text=True, check=False)  # fmt: skip
    assert ran.returncode == 1
    assert "gateway 3: cannot read" in ran.stderr


def test_failing_tool_is_told_and_leaves_no_image(tmp_path: Path) -> None:
    tar = tmp_path / "root.tar"
    tar.write_text("no archive")

    with pytest.raises(SlipstreamError, match=r"sh failed with exit code 2.*not look like a tar"):
        make_images(tar, 1, tmp_path / "ext4", tmp_path / "squashfs")

    assert [path.name for path in tmp_path.iterdir()] == ["root.tar"]
