"""The pipeline and its scans, below the level of a whole install."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slipstream.delta.decode import decode_frame
from slipstream.delta.errors import DeviceFault, DigestMismatch, FormatError, Unavailable
from slipstream.delta.layout import payload_blob
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.installer import pipe, stream
from slipstream.installer.frame_numbers import chunk_span, frames_of
from slipstream.installer.journal import Checkpoint
from slipstream.installer.response import Unusable
from slipstream.installer.scan import missing_chunks, padded_size, wrong_chunks
from slipstream.installer.spool import spool_folder
from slipstream.installer.stream import Payloads
from tests.installer.lab import change, make_image, make_payload
from tests.installer.rig import Rig, chunks_of, ignore, place

IMAGE = make_image(1)


# --- scans


@pytest.mark.parametrize("scan", [missing_chunks, wrong_chunks])
@pytest.mark.parametrize(
    "hurt, found",
    [([], []), ([0], [0]), ([CHUNK_BYTES - 1, CHUNK_BYTES], [0, 1]), ([len(IMAGE) - 1], [3])],
)
def test_a_scan_finds_what_does_not_stand(
    tmp_path: Path, scan: Callable[..., list[int]], hurt: list[int], found: list[int]
) -> None:
    data = bytearray(IMAGE)
    for offset in hurt:
        data[offset] ^= 1
    target = place(tmp_path, "rootfs", bytes(data))
    seen: list[int] = []

    assert scan(target, chunks_of(IMAGE), seen.append) == found
    assert seen == [CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES, len(IMAGE)]
    target.close()


@pytest.mark.parametrize("scan", [missing_chunks, wrong_chunks])
def test_bytes_behind_the_image_in_its_last_block_do_not_stand(
    tmp_path: Path, scan: Callable[..., list[int]]
) -> None:
    target = place(tmp_path, "rootfs", IMAGE + b"x")

    assert scan(target, chunks_of(IMAGE), ignore) == [3]
    target.close()


def test_bytes_behind_the_last_block_are_nobodys_business(tmp_path: Path) -> None:
    whole = -(-len(IMAGE) // BLOCK_BYTES) * BLOCK_BYTES
    target = place(tmp_path, "rootfs", IMAGE.ljust(whole, b"\0") + b"x")

    assert missing_chunks(target, chunks_of(IMAGE), ignore) == []
    assert padded_size(target, len(IMAGE)) == whole
    target.close()


def test_zero_chunks_stand_where_the_image_has_them(tmp_path: Path) -> None:
    zeros, data = bytes(CHUNK_BYTES), os.urandom(CHUNK_BYTES)
    target = place(tmp_path, "rootfs", zeros + zeros + data + zeros)

    assert missing_chunks(target, chunks_of(zeros + data + zeros + zeros), ignore) == [1, 2]
    assert missing_chunks(target, chunks_of(bytes(BLOCK_BYTES)), ignore) == []
    assert missing_chunks(target, chunks_of(zeros + zeros[:-5]), ignore) == []
    target.close()


def test_a_chunk_that_cannot_be_read_does_not_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = place(tmp_path, "rootfs", IMAGE)
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if offset == CHUNK_BYTES:
            raise OSError(5, "Input/output error")
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)

    assert missing_chunks(target, chunks_of(IMAGE), ignore) == [1]
    target.close()


# --- which frames


def test_frames_are_those_that_touch_a_chunk() -> None:
    index, _ = make_payload(change(IMAGE, 0), IMAGE)  # frames of 100,000 bytes

    for chunk in range(4):
        wanted = frames_of(index, {chunk})
        for number, frame in enumerate(index.frames):
            first, last = chunk_span(frame.target)
            assert (number in wanted) == (first <= chunk <= last)
    assert frames_of(index, set()) == []
    assert frames_of(index, {0, 1, 2, 3}) == list(range(len(index.frames)))


# --- the pipeline


def test_every_chunk_of_the_image_stands_afterwards(tmp_path: Path) -> None:
    image = change(IMAGE, 5, 600_000, len(IMAGE) - 200)
    rig = Rig(tmp_path, image, IMAGE, os.urandom(4 * CHUNK_BYTES))

    assert rig.run()[: len(image)] == image
    assert rig.writer.counts.chunks_standing == 0


def test_only_frames_of_missing_chunks_are_fetched(tmp_path: Path) -> None:
    image = make_image(2)
    standing = bytearray(image)
    standing[2 * CHUNK_BYTES + 3] ^= 1
    rig = Rig(tmp_path, image, IMAGE, bytes(standing))

    assert rig.run()[: len(image)] == image
    wanted = frames_of(rig.delta, {2})
    assert rig.writer.counts.chunks_standing == 3
    assert rig.writer.counts.bytes_written == BLOCK_BYTES
    sent = rig.fetcher.bytes_sent
    assert sent == sum(rig.delta.frames[number].encoded.size for number in wanted)


def test_progress_says_what_was_fetched_for_all_payloads_of_the_process(tmp_path: Path) -> None:
    image = change(IMAGE, 5)
    rig = Rig(tmp_path, image, IMAGE, b"")
    (tmp_path / "source").write_bytes(os.urandom(len(IMAGE)))  # then the full payload follows
    seen: list[tuple[str, int, int, int]] = []
    rig.writer.on_progress = lambda *words: seen.append(words)
    rig.writer.counts.bytes_fetched = 1000  # of an image before this one

    rig.run()

    assert "could not be made" in rig.words[0]
    stages = list(dict.fromkeys(stage for stage, _, _, _ in seen))
    assert stages == ["scan", "write", "read back"]
    fetched = [fetched for stage, _, _, fetched in seen if stage == "write"]
    assert fetched == sorted(fetched)
    assert fetched[0] > 1000
    assert fetched[-1] == 1000 + rig.fetcher.bytes_sent == rig.writer.counts.bytes_fetched
    assert {fetched for stage, _, _, fetched in seen if stage != "write"} == {0}
    assert all(total == len(image) for _, _, total, _ in seen)


def test_passes_over_the_image_say_so_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PROGRESS_STEP_BYTES", 2 * CHUNK_BYTES)
    rig = Rig(tmp_path, IMAGE, IMAGE, IMAGE)
    seen: list[tuple[str, int]] = []
    rig.writer.on_progress = lambda stage, done, *_: seen.append((stage, done))

    rig.run()

    steps = [2 * CHUNK_BYTES, len(IMAGE)]
    assert seen == [(stage, done) for stage in ("scan", "read back") for done in steps]


def test_checkpoints_never_say_more_than_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "CHECKPOINT_TARGET_BYTES", 1)
    image = make_image(2)
    rig = Rig(tmp_path, image, IMAGE, b"")
    real, write, sync = rig.journal.checkpoint, os.pwrite, os.fdatasync
    seen: list[int] = []
    unsynced: set[int] = set()

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        unsynced.add(os.fstat(descriptor).st_ino)
        return write(descriptor, data, offset)

    def fdatasync(descriptor: int) -> None:
        sync(descriptor)
        unsynced.discard(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fdatasync", fdatasync)

    def checkpoint(point: Checkpoint) -> None:
        assert (tmp_path / "target").stat().st_ino not in unsynced
        standing = (tmp_path / "target").read_bytes()
        assert standing[: point.done_bytes] == image[: point.done_bytes]
        assert all(f.target.end <= point.done_bytes for f in rig.delta.frames[: point.frame])
        seen.append(point.done_bytes)
        real(point)

    monkeypatch.setattr(rig.journal, "checkpoint", checkpoint)
    rig.run()

    assert seen == sorted(seen)
    assert seen[-1] == len(image)
    assert len(seen) > len(rig.delta.frames)


def test_a_source_that_is_wrong_throughout_is_given_up_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "DRIFTS_MAX", 1)
    image = change(IMAGE, 5)
    rig = Rig(tmp_path, image, IMAGE, b"")
    (tmp_path / "source").write_bytes(os.urandom(len(IMAGE)))

    assert rig.run()[: len(image)] == image
    assert "4 chunks could not be made" in rig.words[0]


def test_a_cut_in_the_full_payload_after_a_drifted_delta_costs_no_byte_of_it(
    tmp_path: Path,
) -> None:
    image = change(IMAGE, 5)

    def drifted() -> Rig:
        rig = Rig(tmp_path, image, IMAGE, (tmp_path / "kept").read_bytes())
        (tmp_path / "source").write_bytes(os.urandom(len(IMAGE)))
        return rig

    (tmp_path / "kept").write_bytes(b"")
    first = drifted()
    full = payload_blob(first.full.digest)
    body = sum(frame.encoded.size for frame in first.full.frames)

    def cut(path: str) -> None:
        if path == full and first.sent(first.full) >= body // 2:
            raise Unavailable("the link is gone", where=path)

    first.fetcher.hook = cut
    with pytest.raises(Unavailable, match="gone"):
        first.run()
    (tmp_path / "kept").write_bytes((tmp_path / "target").read_bytes())
    stray = tmp_path / "spool" / "another payload's"
    stray.mkdir()
    second = drifted()

    assert second.run()[: len(image)] == image
    assert "could not be made" in second.words[0]  # the delta was tried again, in between
    assert first.sent(first.full) + second.sent(second.full) == body
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_delta_that_is_given_up_leaves_no_spool(tmp_path: Path) -> None:
    image = make_image(2)
    rig = Rig(tmp_path, image, IMAGE, b"")
    delta, full = (payload_blob(one.digest) for one in (rig.delta, rig.full))
    seen: list[set[str]] = []

    def damaged(path: str) -> None:
        if path == delta and rig.sent(rig.delta):
            assert list((tmp_path / "spool").glob("*/*.spool"))
            raise Unusable("cut", where=path)
        if path == full and not seen:
            seen.append({one.name for one in (tmp_path / "spool").iterdir()})

    rig.fetcher.hook = damaged

    assert rig.run()[: len(image)] == image
    assert "the delta cannot be had" in rig.words[0]
    assert seen == [{spool_folder(Path(), rig.full.digest).name}]


def test_a_failure_leaves_no_file_open(tmp_path: Path) -> None:
    rig = Rig(tmp_path, make_image(2), IMAGE, b"")
    before = len(os.listdir("/proc/self/fd"))

    def cut(_: str) -> None:
        if rig.fetcher.bytes_sent:
            raise Unavailable("the link is gone")

    rig.fetcher.hook = cut
    with pytest.raises(Unavailable):
        rig.run()

    assert len(os.listdir("/proc/self/fd")) == before - 2  # source and target are closed too
    assert list((tmp_path / "spool").glob("*/*.spool"))


def test_a_wrong_chunk_of_the_full_payload_is_never_written(tmp_path: Path) -> None:
    good = make_image(3)
    bad = change(good, 2 * CHUNK_BYTES + 1)
    rig = Rig(tmp_path, bad, IMAGE, b"")
    rig.writer.chunks = chunks_of(good)
    rig.writer.payloads = Payloads(None, rig._full, rig.full.digest)

    with pytest.raises(DigestMismatch, match="chunk"):
        rig.run()

    written = (tmp_path / "target").read_bytes()
    assert not any(written[2 * CHUNK_BYTES : 3 * CHUNK_BYTES])


def test_a_write_that_fails_ends_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, make_image(2), IMAGE, b"")

    def pwrite(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)

    with pytest.raises(DeviceFault, match="Make room"):
        rig.run()


def test_a_frame_is_not_decoded_before_its_digest_is_right() -> None:
    index, payload = make_payload(make_image(2), None)
    frame = index.frames[0]
    body = bytearray(payload[len(index.raw) :][: frame.encoded.size])
    body[0] ^= 1

    with pytest.raises((DigestMismatch, FormatError)) as caught:
        decode_frame(frame, bytes(body), b"")
    assert isinstance(caught.value, DigestMismatch)
