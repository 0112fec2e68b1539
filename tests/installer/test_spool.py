"""The spool: what is on disk after any cut is either whole, continued, or gone."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import SPOOL_SEGMENT_BYTES
from slipstream.installer import spool as module
from slipstream.installer.spool import Spool, Tail, keep_spools, spool_folder

IDENTITY = Digest.of(b"index")
HEADER_BYTES = 40
RECORD_BYTES = 8


def put(spool: Spool, frame: int, data: bytes) -> None:
    spool.begin(frame, len(data))
    spool.append(data)
    spool.sync_tail()
    spool.finish()


def content(spool: Spool) -> dict[int, bytes]:
    return {frame: spool.read(frame) for frame in spool.frames}


def test_frames_come_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "spool", IDENTITY)
    frames = {3: b"three", 4: b"f" * 1000, 9: b"n"}
    for frame, data in frames.items():
        put(spool, frame, data)
    assert content(spool) == frames
    spool.close()
    again = Spool(tmp_path / "a" / "spool", IDENTITY)
    assert content(again) == frames
    assert again.tail is None
    assert 3 in again
    assert 5 not in again
    again.close()


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """What a power cut leaves is a prefix: whole frames stay, the begun one goes on."""
    spool = Spool(tmp_path, IDENTITY)
    frames = {1: b"abc", 2: b"defgh", 7: b"ij"}
    for frame, data in frames.items():
        put(spool, frame, data)
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    raw = path.read_bytes()
    for length in range(len(raw) + 1):
        path.write_bytes(raw[:length])
        cut = Spool(tmp_path, IDENTITY)
        had = content(cut)
        assert had == {n: frames[n] for n in list(frames)[: len(had)]}
        if cut.tail is not None:
            whole = frames[cut.tail.frame]
            assert cut.tail.size == len(whole)
            assert cut.read_tail() == whole[: cut.tail.have]
            cut.append(whole[cut.tail.have :])
            cut.finish()
        for frame, data in frames.items():
            if frame not in cut:
                put(cut, frame, data)
        assert content(cut) == frames
        cut.close()
        reopened = Spool(tmp_path, IDENTITY)
        assert content(reopened) == frames
        reopened.discard()
        assert not list(tmp_path.iterdir())
        path.write_bytes(b"")


def test_another_payload_is_discarded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, IDENTITY)
    put(spool, 1, b"abc")
    spool.begin(2, 10)
    spool.append(b"part")
    spool.close()
    other = Spool(tmp_path, Digest.of(b"another"))
    assert other.frames == ()
    assert other.tail is None
    assert not list(tmp_path.iterdir())
    other.close()


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200), behind=st.booleans())
def test_junk_is_no_frame(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, *, behind: bool
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, IDENTITY)
    put(spool, 1, b"abc")
    spool.close()
    (path,) = folder.glob("*.spool")
    path.write_bytes(path.read_bytes() + junk if behind else junk)
    again = Spool(folder, IDENTITY)
    if behind:
        assert again.read(1) == b"abc"
    put(again, 5, b"five")
    assert again.read(5) == b"five"
    again.close()


def test_release_removes_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, IDENTITY)
    data = bytes(SPOOL_SEGMENT_BYTES // 2)
    for frame in range(8):
        put(spool, frame, data)
    assert len(list(tmp_path.iterdir())) == 4
    held = spool.held_bytes
    spool.release(3)  # frames 2 and 3 share a segment
    assert spool.frames == (3, 4, 5, 6, 7)
    assert len(list(tmp_path.iterdir())) == 3
    assert spool.held_bytes < held
    spool.release(8)
    assert spool.held_bytes == 0
    assert not list(tmp_path.iterdir())
    put(spool, 9, b"goes on")
    assert spool.read(9) == b"goes on"
    spool.close()


def test_release_keeps_the_begun_frame(tmp_path: Path) -> None:
    spool = Spool(tmp_path, IDENTITY)
    put(spool, 0, b"abc")
    spool.begin(1, 4)
    spool.append(b"de")
    spool.release(1)
    assert spool.tail == Tail(1, 4, 2)
    spool.append(b"fg")
    spool.finish()
    assert spool.read(1) == b"defg"
    spool.drop(1)
    assert 1 not in spool
    spool.close()


def test_begin_drops_what_was_begun(tmp_path: Path) -> None:
    spool = Spool(tmp_path, IDENTITY)
    spool.begin(1, 4)
    spool.append(b"ab")
    put(spool, 2, b"xyz")
    assert spool.held_bytes == HEADER_BYTES + RECORD_BYTES + 3
    assert content(spool) == {2: b"xyz"}
    spool.close()


def test_misuse_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match="begun"):
        spool.append(b"a")
    spool.begin(1, 1)
    with pytest.raises(ValueError, match="too many"):
        spool.append(b"ab")
    with pytest.raises(ValueError, match="whole"):
        spool.finish()
    spool.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_a_device_fault(tmp_path: Path) -> None:
    spool = Spool(tmp_path, IDENTITY)
    put(spool, 1, b"abc")
    full = os.open("/dev/full", os.O_WRONLY)
    assert spool._descriptor is not None
    os.dup2(full, spool._descriptor)
    os.close(full)
    with pytest.raises(DeviceFault, match="No space left"):
        spool.begin(2, 10)
    spool.close()
    assert content(Spool(tmp_path, IDENTITY)) == {1: b"abc"}


def test_unusable_folder_is_a_device_fault(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"a file")
    with pytest.raises(DeviceFault, match="spool"):
        Spool(tmp_path / "spool", IDENTITY)


def test_only_the_spools_of_named_payloads_are_kept(tmp_path: Path) -> None:
    other = Digest.of(b"another index")
    for identity in (IDENTITY, other):
        spool = Spool(spool_folder(tmp_path, identity), identity)
        put(spool, 1, b"abc")
        spool.close()
    (tmp_path / "00000001.spool").write_bytes(b"of an earlier version")
    (tmp_path / "link").symlink_to(tmp_path.parent)

    keep_spools(tmp_path, [IDENTITY])

    assert list(tmp_path.iterdir()) == [spool_folder(tmp_path, IDENTITY)]
    assert content(Spool(spool_folder(tmp_path, IDENTITY), IDENTITY)) == {1: b"abc"}
    keep_spools(tmp_path, ())
    assert list(tmp_path.iterdir()) == []
    keep_spools(tmp_path / "none", [IDENTITY])


def test_the_folders_of_a_spool_are_durable_before_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync_folder", synced.append)
    spool = Spool(tmp_path / "a" / "b", IDENTITY)
    assert synced == [tmp_path, tmp_path / "a"]
    put(spool, 1, b"abc")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    spool.close()
