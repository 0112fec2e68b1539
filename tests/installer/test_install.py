"""The main job of the device, on a repository in memory and a device in a folder."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.errors import (
    Busy,
    DeviceFault,
    DigestMismatch,
    NothingToDo,
    Rejected,
    RolledBack,
    SlipstreamError,
    Unavailable,
    WrongDevice,
)
from slipstream.delta.layout import chunks_blob, payload_blob
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.delta.manifest import BootEntryTemplate, ImageEntry, PayloadRef, Place
from slipstream.delta.tree import dump_superblock
from slipstream.installer.install import install
from slipstream.installer.ports import EntryState
from slipstream.installer.prepare import prepare
from slipstream.installer.progress import InstallEvent, Stage
from slipstream.installer.response import NotFound, Unusable
from slipstream.installer.slots import Denied, SlotState
from slipstream.installer.states import BootedNew, Committed, Idle, Outcome, Refused, Streaming
from slipstream.installer.status import read_status
from tests.installer.boot.uki import make_uki
from tests.installer.lab import SLOT_BYTES, Lab, LabFetcher, LabRelease, change, make_image

IMAGE = make_image(1)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable is the subject of test_install_faults.py; here syncing only takes time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def update(lab: Lab) -> LabRelease:
    """The device runs 1.0; 2.0 is on offer with a delta."""
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    return lab.publish("2.0", 2, change(IMAGE, 100_000, 700_000, 1_300_000), source=IMAGE)


def run(lab: Lab, release: str | None = None) -> Any:
    return asyncio.run(lab.install(release))


# --- the way through


def test_a_first_install_uses_the_full_payload(lab: Lab) -> None:
    one = lab.publish("1.0", 1, IMAGE)

    result = run(lab)

    assert (result.slot, result.release) == ("a", "1.0")
    assert lab.holds("a", one)
    assert lab.reboot() == "a"
    assert lab.fake.staged["a", 1].files == {"linux": b"kernel 1.0"}


def test_fetching_decoding_and_writing_overlap(lab: Lab) -> None:
    """The last piece of the payload is held back until the first chunk stands in the slot."""
    lab.publish("1.0", 1, IMAGE)
    payload = max(lab.files, key=lambda path: len(lab.files[path]))

    class Waiting(LabFetcher):
        async def stream(self, path: str, rng: ByteRange) -> AsyncIterator[bytes]:
            left = rng.size
            async for piece in super().stream(path, rng):
                left -= len(piece)
                if path == payload and not left:
                    async with asyncio.timeout(30):
                        while lab.slot("a").read_bytes()[:CHUNK_BYTES] != IMAGE[:CHUNK_BYTES]:
                            await asyncio.sleep(0.005)
                yield piece

    lab.fetcher = Waiting(lab.files)
    run(lab)
    assert [path for path, _ in lab.fetcher.streamed].count(payload) > 10


def test_an_update_uses_the_delta(lab: Lab, update: LabRelease) -> None:
    result = run(lab)

    assert result.slot == "b"
    assert lab.holds("b", update)
    assert lab.holds("a", lab.releases["1.0"])
    assert update.images["rootfs"].delta is not None
    # The kernel's full payload comes too.
    kernel = update.images["kernel"].full.body_size
    assert result.bytes_fetched == update.images["rootfs"].delta.body_size + kernel
    assert lab.reboot() == "b"


def test_the_entry_is_published_last_and_the_slot_retired_first(
    lab: Lab, update: LabRelease
) -> None:
    run(lab)

    assert lab.fake.calls == [("retire", "b", None), ("stage", "b", 2), ("publish", "b", 2)]
    device = lab.device()
    assert isinstance(device.journal.state, Committed)
    assert device.slots.record("b").state is SlotState.INSTALLED
    assert device.slots.record("b").images["rootfs"] == update.images["rootfs"].tree.tuple.root
    assert [one.kind for one in device.slots.reports()] == ["installed"]


def test_the_next_update_alternates_and_uses_the_record_of_the_slot(
    lab: Lab, update: LabRelease
) -> None:
    run(lab)
    lab.reboot()
    lab.fake.confirm("b", 2)
    (lab.folder / "state" / "tx.json").unlink()
    image = change(update.images["rootfs"].data, 5)
    three = lab.publish("3.0", 3, image, source=update.images["rootfs"].data)

    result = run(lab)

    assert result.slot == "a"
    assert lab.holds("a", three)
    assert lab.holds("b", update)
    assert lab.reboot() == "a"


def test_what_stands_is_neither_fetched_nor_written(lab: Lab, update: LabRelease) -> None:
    run(lab)
    lab.fake.retire("b")
    (lab.folder / "state" / "tx.json").unlink()

    result = run(lab)

    assert (result.bytes_fetched, result.bytes_written) == (0, 0)
    assert result.chunks_standing == result.chunks == 5


def test_what_images_of_other_names_left_is_removed(lab: Lab, update: LabRelease) -> None:
    state = lab.device().state
    for path in (state / "spool" / "usr" / "0", state / "files" / "b" / "uki"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"left over")
    keep = state / "files" / "a" / "uki"
    keep.parent.mkdir(parents=True)
    keep.write_bytes(b"the running slot's")

    run(lab)

    assert not (state / "spool" / "usr").exists()
    assert [path.name for path in (state / "files" / "b").iterdir()] == ["kernel"]
    assert keep.exists()


def test_the_named_release_is_installed(lab: Lab) -> None:
    one = lab.publish("1.0", 1, IMAGE)
    lab.publish("2.0", 2, make_image(2))

    assert run(lab, "1.0").release == "1.0"
    assert lab.holds("a", one)


def test_the_hash_tree_is_written_behind_the_image(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings='[install]\nverity = "append"\n', slot_bytes=SLOT_BYTES)
    one = lab.publish("1.0", 1, IMAGE)

    run(lab)

    tree = one.images["rootfs"].tree
    begin = tree.tuple.data_blocks * BLOCK_BYTES
    expected = dump_superblock(tree.tuple, tree.tuple.root.raw[:16]) + tree.dump()
    assert lab.slot("a").read_bytes()[begin : begin + len(expected)] == expected
    if Path("/usr/sbin/veritysetup").exists():
        subprocess.run(
            [
                "/usr/sbin/veritysetup",
                "verify",
                f"--hash-offset={begin}",
                lab.slot("a"),
                lab.slot("a"),
                tree.tuple.root.hex,
            ],
            check=True,
            capture_output=True,
        )


@pytest.mark.parametrize(
    "verity, room, taken",
    [
        ("append", 1, True),
        ("append", 0, False),
        ("none", 1, False),
        ("initrd", 0, True),
    ],
)
@pytest.mark.parametrize("uki", [True, False])
def test_what_would_not_open_is_refused_before_anything_changes(
    tmp_path: Path, verity: str, room: int, taken: bool, uki: bool
) -> None:
    """A UKI is not here yet: it must name the root hash of rootfs, or it is refused for that."""
    image = IMAGE[: 2 * CHUNK_BYTES]
    needed = len(image) + BLOCK_BYTES + 3 * BLOCK_BYTES  # superblock; two leaf blocks, the root
    settings = f'[install]\nverity = "{verity}"\n'
    lab = Lab(tmp_path, settings=settings, slot_bytes=needed - BLOCK_BYTES * (not room))
    lab.preinstall(lab.publish("1.0", 1, image))
    root = lab.root_of(change(image, 5))
    made = make_uki("2.0", cmdline=f"roothash={root}") if uki else None
    lab.publish("2.0", 2, change(image, 5), uki=made)
    before = lab.slot("b").read_bytes()

    if taken:
        assert run(lab).slot == "b"
        return
    with pytest.raises(WrongDevice, match=r"would not boot.*\[install\] verity"):
        run(lab)
    assert lab.slot("b").read_bytes() == before
    assert lab.fake.calls == []
    assert lab.device().slots.reports() == ()


def test_no_room_for_a_hash_tree_that_nobody_opens_is_said_and_no_fault(tmp_path: Path) -> None:
    size = -(-len(IMAGE) // BLOCK_BYTES) * BLOCK_BYTES
    lab = Lab(tmp_path, settings='[install]\nverity = "append"\n', slot_bytes=size)
    lab.config_path.write_text(lab.config_path.read_text().replace("rootfs =", "data ="))
    data = lab._publish_image("1.0", "data", IMAGE, None)
    kernel = lab._publish_image("1.0", "kernel", b"kernel", None)
    images = tuple(
        ImageEntry(
            name,
            place,
            one.tree.tuple,
            Digest.of(one.tree.chunk_list),
            PayloadRef(one.full.digest, len(one.full.raw), one.full.payload_size),
        )
        for name, place, one in (("data", Place.PARTITION, data), ("kernel", Place.LINUX, kernel))
    )
    boot = BootEntryTemplate("Gateway 1.0", "root=/dev/vda2")
    lab.publish("1.0", 1, IMAGE, kernel=b"kernel", images=images, boot=boot)

    run(lab)

    assert lab.slot("a").read_bytes()[: len(IMAGE)] == IMAGE
    assert "no room for the hash tree" in lab.words()


# --- refusals: nothing written to the slot


def tamper(lab: Lab, path: str) -> None:
    data = bytearray(lab.files[path])
    data[-1] ^= 1
    lab.files[path] = bytes(data)


def tamper_index(lab: Lab, update: LabRelease) -> None:
    digest = update.images["rootfs"].full.digest
    tamper(lab, next(path for path in lab.files if path.endswith(f"{digest}.rootfs.full")))


def tamper_manifest(lab: Lab, update: LabRelease) -> None:
    tamper(lab, next(path for path in lab.files if path.endswith(f"{update.digest}.manifest.json")))


def tamper_frame(lab: Lab, update: LabRelease) -> None:
    tamper(lab, payload_blob(update.images["rootfs"].full.digest))


def tamper_chunks(lab: Lab, update: LabRelease) -> None:
    tamper(lab, chunks_blob(Digest.of(update.images["rootfs"].tree.chunk_list)))


def raise_floor(lab: Lab, update: LabRelease) -> None:
    lab.device().floors.raise_to(3)


def deny(lab: Lab, update: LabRelease) -> None:
    lab.device().slots.deny(Denied("2.0", 2, update.digest, "health: dns failed", 0))


@pytest.mark.parametrize(
    "hurt, error",
    [
        (tamper_index, DigestMismatch),
        (tamper_manifest, DigestMismatch),
        (tamper_frame, DigestMismatch),
        (tamper_chunks, DigestMismatch),
        (raise_floor, RolledBack),
        (deny, Rejected),
    ],
)
def test_bad_bytes_are_refused(
    lab: Lab, hurt: Callable[[Lab, LabRelease], None], error: type[SlipstreamError]
) -> None:
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    two = lab.publish("2.0", 2, make_image(2, 400_000))
    before = lab.slot("b").read_bytes()
    hurt(lab, two)

    with pytest.raises(error) as caught:
        run(lab, "2.0")

    assert caught.value.exit_code == 4
    assert lab.slot("b").read_bytes() == before
    assert [entry.slot for entry in lab.fake.entries()] == ["a"]


@pytest.mark.parametrize(
    "changes, size",
    [
        ({"product": "toaster"}, 4000),
        ({"hardware": ("arm64",)}, 4000),
        ({"channel": "beta"}, 4000),
        ({}, SLOT_BYTES + 1),
    ],
)
def test_a_release_for_another_device_is_refused(
    lab: Lab, changes: dict[str, Any], size: int
) -> None:
    lab.publish("1.0", 1, make_image(2, size), **changes)

    with pytest.raises(WrongDevice) as caught:
        run(lab, "1.0")

    assert caught.value.exit_code == 4
    assert not any(lab.slot("a").read_bytes())
    assert lab.fake.calls == []


def test_a_frame_that_makes_other_bytes_than_were_signed_is_refused(lab: Lab) -> None:
    """The payload is whole and signed, but it makes another image than the tree describes."""
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    good = make_image(2)
    lab.evil = change(good, CHUNK_BYTES + 7)  # what the frames make
    lab.publish("2.0", 2, good)

    with pytest.raises(DigestMismatch, match="chunk is not what was signed"):
        run(lab)

    written = lab.slot("b").read_bytes()
    assert written[:CHUNK_BYTES] == good[:CHUNK_BYTES]
    assert not any(written[CHUNK_BYTES : 2 * CHUNK_BYTES])
    state = lab.device().journal.state
    assert isinstance(state, Idle)
    assert state.last is not None
    assert state.last.outcome is Outcome.FAILED
    (report,) = lab.device().slots.reports()
    assert (report.kind, report.details) == ("failed", {"class": "rejected"})


def test_nothing_newer_is_nothing_to_do(lab: Lab) -> None:
    lab.preinstall(lab.publish("1.0", 1, IMAGE))

    with pytest.raises(NothingToDo) as caught:
        run(lab)
    assert caught.value.exit_code == 3


def test_the_newest_release_is_passed_over_when_it_fell_back(lab: Lab, update: LabRelease) -> None:
    deny(lab, update)

    with pytest.raises(NothingToDo):
        run(lab)

    three = lab.publish("3.0", 3, make_image(3))
    assert run(lab).release == "3.0"
    assert lab.holds("b", three)


def test_no_release_is_installed_while_one_is_on_trial(lab: Lab, update: LabRelease) -> None:
    run(lab)
    lab.publish("3.0", 3, make_image(3))

    with pytest.raises(Refused, match=r"release 2\.0 waits for its trial"):
        run(lab)
    assert lab.holds("b", update)


def test_a_lost_record_of_the_commit_is_read_from_the_entry(lab: Lab, update: LabRelease) -> None:
    run(lab)
    path = lab.folder / "state" / "tx.json"
    path.write_bytes(path.read_bytes().replace(b'"committed"', b'"staged"'))

    with pytest.raises(Refused, match="waits for its trial"):
        run(lab)
    assert lab.fake.entries()[1].state is EntryState.TRIAL


def test_a_boot_file_that_was_changed_since_it_was_verified_is_not_staged(
    lab: Lab, update: LabRelease
) -> None:
    """Without Secure Boot, whoever can write the state folder would choose what boots."""
    device = lab.device()

    def swap(event: InstallEvent) -> None:
        if event.stage is Stage.STAGE:
            device.boot_file("b", "kernel").write_bytes(b"another kernel")

    with pytest.raises(DeviceFault, match="a kept boot file is not what was signed"):
        asyncio.run(install(device, None, swap))
    assert {entry.slot for entry in device.boot.entries()} == {"a"}


def test_the_second_installer_is_told(lab: Lab, update: LabRelease) -> None:
    with lab.device().lock(), pytest.raises(Busy, match=f"process {os.getpid()}"):
        run(lab)
    assert run(lab).release == "2.0"


def test_the_second_installer_sees_what_the_first_did(lab: Lab, update: LabRelease) -> None:
    late = lab.device()  # opened before, locked after
    run(lab)

    with pytest.raises(Refused, match="waits for its trial"):
        asyncio.run(install(late))
    assert lab.holds("b", update)


def test_a_fault_of_the_boot_partition_before_the_commit_is_reported(
    lab: Lab, update: LabRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lab.fake.stage

    def full(*arguments: Any) -> None:
        lab.fake.fault = DeviceFault("the boot partition is full")
        real(*arguments)

    monkeypatch.setattr(lab.fake, "stage", full)
    with pytest.raises(DeviceFault, match="full"):
        run(lab)

    state = lab.device().journal.state
    assert isinstance(state, Idle)
    assert state.last is not None
    assert "full" in state.last.reason
    monkeypatch.undo()
    assert run(lab).bytes_fetched == 0


def test_an_unknown_running_slot_is_a_fault(lab: Lab, update: LabRelease) -> None:
    lab.fake.running = type(lab.fake.running)(slot=None, counter=None, root=None)

    with pytest.raises(DeviceFault, match="running slot is not known"):
        run(lab)


def test_the_boot_loader_is_asked_before_anything_is_touched(lab: Lab, update: LabRelease) -> None:
    """The running release is on trial, and the journal that would say so is lost."""
    run(lab)
    lab.reboot()
    (lab.folder / "state" / "tx.json").unlink()
    three = lab.publish("3.0", 3, make_image(3))
    calls = list(lab.fake.calls)

    with pytest.raises(DeviceFault, match="still on trial"):
        run(lab)
    assert lab.fake.calls == calls
    assert lab.holds("a", lab.releases["1.0"])
    assert not lab.holds("a", three)


def test_boot_files_that_do_not_fit_are_refused_before_the_download(
    lab: Lab, update: LabRelease
) -> None:
    lab.fake.leave_room(5)  # its kernel has 10 bytes
    calls = list(lab.fake.calls)

    with pytest.raises(DeviceFault, match="too small for this release"):
        run(lab)
    assert lab.fetcher.bytes_sent == 0
    assert lab.fake.calls == calls
    assert isinstance(lab.device().journal.state, Idle)


@pytest.mark.parametrize("reboot", [False, True])
def test_a_plan_is_refused_while_a_release_is_on_trial(
    lab: Lab, update: LabRelease, *, reboot: bool
) -> None:
    run(lab)
    if reboot:
        lab.reboot()
        lab.device().journal.record(BootedNew())
    lab.publish("3.0", 3, make_image(3))

    with pytest.raises(Refused, match="is on trial" if reboot else "waits for its trial"):
        asyncio.run(prepare(lab.device()))


# --- drift: the running slot is not what it should be


def drift(lab: Lab, *offsets: int) -> None:
    with lab.slot("a").open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(b"drift")


def test_a_drifted_source_costs_only_its_chunks(lab: Lab, update: LabRelease) -> None:
    drift(lab, 2 * CHUNK_BYTES)

    result = run(lab)

    assert lab.holds("b", update)
    assert "1 chunk could not be made from the running slot" in lab.words()
    rootfs = update.images["rootfs"]
    full = rootfs.full.frames[2].encoded.size
    assert rootfs.delta is not None
    assert result.bytes_fetched == (
        rootfs.delta.body_size + full + update.images["kernel"].full.body_size
    )


def test_an_unreadable_source_costs_only_its_chunks(
    lab: Lab, update: LabRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread
    bad = os.stat(lab.slot("a")).st_ino

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad and offset <= CHUNK_BYTES + 9 < offset + size:
            raise OSError(5, "Input/output error")
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)

    run(lab)

    assert lab.holds("b", update)
    assert "could not be made from the running slot" in lab.words()


def test_a_medium_that_forgets_is_a_fault(
    lab: Lab, update: LabRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    target = os.stat(lab.slot("b")).st_ino

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if os.fstat(descriptor).st_ino == target and offset == CHUNK_BYTES:
            return len(data)  # acknowledged and lost
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)

    with pytest.raises(DeviceFault, match="does not keep what is written"):
        run(lab)
    assert [entry.slot for entry in lab.fake.entries()] == ["a"]
    assert lab.words().count("not as written when read back") == 3


@pytest.mark.parametrize("fails_at", ["metadata/", ".chunks"])
def test_a_release_is_forgiven_when_its_install_begins(
    lab: Lab, update: LabRelease, fails_at: str
) -> None:
    """Not before: the agent, or the next command, must not take a release that a person did not."""
    slots = lab.device().slots
    slots.deny(Denied("2.0", 2, update.digest, "it fell back", 0))

    def away(path: str) -> None:
        if fails_at in path:
            raise Unavailable("the server is away")

    lab.fetcher.hook = away
    with pytest.raises(Unavailable):
        asyncio.run(install(lab.device(), "2.0", retry=True))
    assert [one.release for one in slots.denied()] == ["2.0"]
    lab.fetcher.hook = lambda _: None
    with pytest.raises(Rejected, match="not tried again"):
        run(lab, "2.0")

    asyncio.run(install(lab.device(), "2.0", lab.events.append, retry=True))

    assert slots.denied() == ()
    assert "release 2.0 is tried again" in lab.words()
    assert lab.holds("b", update)


# --- a damaged delta on the server


def delta_index(lab: Lab, update: LabRelease) -> str:
    """Where the server has the index of the delta of the root file system."""
    assert update.images["rootfs"].delta is not None
    (path,) = [name for name, raw in lab.files.items() if raw == update.images["rootfs"].delta.raw]
    return path


def damage(lab: Lab, path: str, how: str) -> None:
    match how:
        case "missing":
            del lab.files[path]
        case "cut":
            lab.files[path] = lab.files[path][:-1]
        case "changed":
            lab.files[path] = bytes([lab.files[path][0] ^ 1]) + lab.files[path][1:]


def payload_of(lab: Lab, update: LabRelease, kind: str) -> str:
    rootfs = update.images["rootfs"]
    index = rootfs.delta if kind == "delta" else rootfs.full
    assert index is not None
    return payload_blob(index.digest)


def check_full_was_used(lab: Lab, update: LabRelease, words: str) -> None:
    assert lab.holds("b", update)
    assert lab.reboot() == "b"
    (report,) = lab.device().slots.reports()
    assert report.kind == "installed"
    assert words in report.reason
    assert report.details["delta_given_up"] is True


@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_a_damaged_index_of_a_delta_costs_the_delta(lab: Lab, update: LabRelease, how: str) -> None:
    damage(lab, delta_index(lab, update), how)

    result = run(lab)

    check_full_was_used(lab, update, "not used: rootfs: delta from release 1.0: ")
    (note,) = [one for one in result.notes if "delta" in one]
    assert note in read_status(lab.device()).to_words()
    assert result.bytes_fetched == sum(
        update.images[name].full.body_size for name in ("rootfs", "kernel")
    )


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_delta_whose_payload_is_not_there_costs_the_delta(
    lab: Lab, update: LabRelease, how: str
) -> None:
    damage(lab, payload_of(lab, update, "delta"), how)

    run(lab)

    check_full_was_used(lab, update, "rootfs: delta from release 1.0: ")


def test_a_damaged_list_of_deltas_costs_the_delta(lab: Lab, update: LabRelease) -> None:
    damage(lab, max(name for name in lab.files if name.endswith(".deltas.json")), "changed")

    run(lab)

    check_full_was_used(lab, update, "rootfs: deltas: ")


def test_a_damaged_frame_costs_its_chunks(lab: Lab, update: LabRelease) -> None:
    delta = update.images["rootfs"].delta
    assert delta is not None
    coded = [frame for frame in delta.frames if frame.encoded.size]
    path = payload_of(lab, update, "delta")
    raw = bytearray(lab.files[path])
    raw[len(delta.raw) + coded[1].encoded.offset + 7] ^= 1
    lab.files[path] = bytes(raw)

    result = run(lab)

    check_full_was_used(lab, update, "a frame of the delta is damaged on the server")
    rootfs = update.images["rootfs"]
    touched = {at // CHUNK_BYTES for at in (coded[1].target.offset, coded[1].target.end - 1)}
    full = sum(rootfs.full.frames[one].encoded.size for one in touched)
    kernel = update.images["kernel"].full.body_size
    # The damaged frame was asked for twice.
    assert result.bytes_fetched == delta.body_size + coded[1].encoded.size + full + kernel


@pytest.mark.parametrize("error", [NotFound("gone", where="x"), Unusable("cut", where="x")])
def test_a_delta_that_goes_while_it_streams_costs_what_is_left_of_it(
    lab: Lab, update: LabRelease, error: Exception
) -> None:
    path, left = payload_of(lab, update, "delta"), 3

    def gone(streamed: str) -> None:
        nonlocal left
        left -= streamed == path
        if streamed == path and left < 0:
            raise error

    lab.fetcher.hook = gone
    run(lab)

    check_full_was_used(lab, update, "the delta cannot be had")


@pytest.mark.parametrize(
    "what", ["chunks", "both indexes", "both payloads", "the full payload of the kernel"]
)
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_what_cannot_be_had_stops_the_update_with_everything_as_it_was(
    lab: Lab, update: LabRelease, what: str, how: str
) -> None:
    run(lab)
    lab.fake.confirm("b", 2)  # now slot a is the fallback
    lab.reboot()
    (lab.folder / "state" / "tx.json").unlink()
    for report in lab.device().slots.reports():
        lab.device().slots.delivered(report.key)
    source = update.images["rootfs"].data
    three = lab.publish("3.0", 3, change(source, 5), source=source)
    rootfs = three.images["rootfs"]
    full_index = {
        name: next(path for path, raw in lab.files.items() if raw == one.full.raw)
        for name, one in three.images.items()
    }
    match what:
        case "chunks":
            damage(lab, chunks_blob(Digest.of(rootfs.tree.chunk_list)), how)
        case "both indexes":
            damage(lab, delta_index(lab, three), how)
            damage(lab, full_index["rootfs"], how)
        case "both payloads":
            damage(lab, payload_of(lab, three, "delta"), how)
            damage(lab, payload_of(lab, three, "full"), how)
        case _:
            damage(lab, payload_blob(three.images["kernel"].full.digest), how)
    before = lab.slot("a").read_bytes()
    calls = list(lab.fake.calls)

    with pytest.raises(NotFound if how == "missing" else Unusable) as refused:
        run(lab)

    kernel = "the full payload of kernel" if what.startswith("the full") else ""
    list_of_chunks = "the chunk list of rootfs" if what == "chunks" else ""
    words = kernel or list_of_chunks or "the full payload of rootfs"
    assert f"{words}, release 3.0: " in str(refused.value)
    assert "The running release is untouched. Publish the release again" in str(refused.value)
    assert lab.fake.calls == calls
    assert lab.slot("a").read_bytes() == before
    device = lab.device()
    assert isinstance(device.journal.state, Idle)
    assert device.slots.record("a").state is not SlotState.WRITING
    (report,) = device.slots.reports()
    assert (report.kind, report.release, report.details) == ("failed", "3.0", {"class": "fetch"})


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("2.0/manifest.json", "the manifest of release 2.0: "),
        ("timestamp.json", "signed metadata of the repository: "),
    ],
)
def test_signed_files_that_are_gone_are_named(
    lab: Lab, update: LabRelease, file: str, words: str
) -> None:
    folder, _, name = file.rpartition("/")
    (path,) = [one for one in lab.files if one.endswith(name) and folder in one]
    del lab.files[path]

    with pytest.raises(NotFound) as refused:
        run(lab)

    assert words in str(refused.value)
    assert "The running release is untouched. " in str(refused.value)


def test_a_server_that_loses_both_payloads_in_mid_install_is_reported(
    lab: Lab, update: LabRelease
) -> None:
    """Once, and the install goes on when the server has one again."""
    paths = [payload_of(lab, update, kind) for kind in ("delta", "full")]
    left = 3

    def cut(path: str) -> None:
        nonlocal left
        left -= path in paths
        if left < 0:
            raise Unavailable("the link is gone")

    lab.fetcher.hook = cut
    with pytest.raises(Unavailable):
        run(lab)
    lab.fetcher.hook = lambda _: None
    assert lab.device().slots.record("b").stopped == "the link is gone"
    assert lab.device().slots.reports() == ()
    gone = {path: lab.files.pop(path) for path in paths}

    for _ in range(3):
        with pytest.raises(NotFound):
            run(lab)
        (report,) = lab.device().slots.reports()
        assert (report.kind, report.release) == ("failed", "2.0")
    assert isinstance(lab.device().journal.state, Streaming)
    status = read_status(lab.device())
    assert "  the last attempt stopped: " in status.to_words()
    (slot,) = [one for one in status.to_json()["slots"] if one["name"] == "b"]
    assert "the payload of rootfs, release 2.0: " in slot["stopped"]

    lab.files |= gone
    run(lab)
    assert lab.holds("b", update)
    assert "stopped" not in read_status(lab.device()).to_words()


# --- interruption


def test_a_lost_link_is_resumed_without_fetching_twice(lab: Lab, update: LabRelease) -> None:
    left = 3

    def cut(path: str) -> None:
        nonlocal left
        left -= path.endswith(".payload")
        if left < 0:
            raise Unavailable("the link is gone")

    lab.fetcher.hook = cut
    with pytest.raises(Unavailable):
        run(lab)
    assert isinstance(lab.device().journal.state, Streaming)
    first = lab.fetcher.bytes_sent
    lab.fetcher.hook = lambda _: None

    result = run(lab)

    assert lab.holds("b", update)
    assert first > 0
    rootfs, kernel = update.images["rootfs"], update.images["kernel"]
    assert rootfs.delta is not None
    whole = rootfs.delta.body_size + kernel.full.body_size
    assert lab.fetcher.bytes_sent == whole
    assert result.bytes_refetched == 0


CHILD = """\
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.installer.lab import Lab, change, make_image

lab = Lab(Path(sys.argv[2]))
image = make_image(1)
lab.preinstall(lab.publish("1.0", 1, image))
lab.publish("2.0", 2, make_image(2), source=image)
left = int(sys.argv[3])

def kill(path):
    global left
    left -= path.endswith(".payload")
    if left < 0:
        print(lab.fetcher.bytes_sent, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

lab.fetcher.hook = kill
asyncio.run(lab.install())
"""


@pytest.mark.parametrize("pieces", [1, 14])
def test_sigkill_costs_no_byte_twice(lab: Lab, tmp_path: Path, pieces: int) -> None:
    """A real process, killed in the stream; this one goes on with what it left on disk."""
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    two = lab.publish("2.0", 2, make_image(2), source=IMAGE)
    root = Path(__file__).resolve().parents[2]
    child = tmp_path / "child"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, root, child, str(pieces)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    for name in ("state", "slot-a.img", "slot-b.img"):
        target = lab.folder / name
        os.rename(target, tmp_path / f"old-{name}") if target.exists() else None
        os.rename(child / name, target)
    # The child signed with a key of its own: its metadata means nothing here.
    for path in (lab.folder / "state" / "metadata").rglob("*.json"):
        path.unlink()

    result = run(lab)

    assert lab.holds("b", two)
    delta, kernel = two.images["rootfs"].delta, two.images["kernel"].full
    assert delta is not None
    whole = delta.body_size + kernel.body_size
    assert int(done.stdout) > 0
    assert int(done.stdout) + lab.fetcher.bytes_sent - whole <= max(
        frame.encoded.size for frame in delta.frames
    )
    assert result.bytes_refetched == 0
