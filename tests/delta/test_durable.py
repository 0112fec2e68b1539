"""The durable write: whole, in its own file, or not at all."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from slipstream.delta.durable import reserved_file, sync_filesystem, write_durably


def test_bytes_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, mode in ((b"one", 0o600), (b"", 0o644), (b"three" * 100_000, 0o600)):
        write_durably(path, data, mode=mode)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (data, mode)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"a slot, say")
    for name in (".file.tmp", "file"):
        (tmp_path / name).symlink_to(victim)
    write_durably(tmp_path / "file", b"state")
    assert victim.read_bytes() == b"a slot, say"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"state"


def test_what_a_killed_write_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"left by a killed write, and longer")
    os.link(tmp_path / ".file.tmp", tmp_path / "other")
    write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "other").read_bytes() == b"left by a killed write, and longer"


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_file_system_is_synced_by_syncfs_or_with_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    sync_filesystem(tmp_path)
    assert synced == []

    def no_library(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    sync_filesystem(tmp_path)
    assert synced == ["all"]
    with pytest.raises(FileNotFoundError):
        sync_filesystem(tmp_path / "none")


def test_a_reserved_file_holds_what_was_given(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (3, 100_000):  # more than was given, and less
        with reserved_file(path, 1000, mode=0o600) as give:
            assert path.stat().st_size == 1000
            give(b"x" * size)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"x" * size, 0o600)
        path.unlink()


def test_a_file_is_reserved_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError), reserved_file(path, 10):
        raise AssertionError("the block must not begin")
    assert path.read_bytes() == b"precious"


def test_a_reserved_file_that_got_nothing_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), reserved_file(tmp_path / "file", 10):
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


def test_a_reserved_file_keeps_what_it_got(tmp_path: Path) -> None:
    def give_and_fail() -> None:
        with reserved_file(tmp_path / "file", 10) as give:
            give(b"precious")
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        give_and_fail()
    assert (tmp_path / "file").read_bytes() == b"precious"
