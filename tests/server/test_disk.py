"""The publisher's four operations."""

import os
from pathlib import Path

from slipstream.server.disk import Disk


def test_write_replaces_whole_files(tmp_path: Path):
    disk, path = Disk(), tmp_path / "a"
    disk.write(path, b"one", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    disk.write(path, b"2")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"2", 0o644)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_rename_replaces(tmp_path: Path):
    disk = Disk()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    disk.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"
    assert not (tmp_path / "a").exists()


def test_remove_is_content_with_nothing(tmp_path: Path):
    (tmp_path / "a").touch()
    Disk().remove(tmp_path / "a")
    Disk().remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_folders_have_their_mode_whatever_the_umask(tmp_path: Path):
    before = os.umask(0o077)
    try:
        Disk().make_folder(tmp_path / "a" / "b")
        Disk().make_folder(tmp_path / "keys", mode=0o700)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    Disk().make_folder(tmp_path / "a" / "b")
