"""Status: what a device says of itself, at every turn of an update."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from slipstream.delta.limits import CHUNK_BYTES
from slipstream.installer.journal import Checkpoint
from slipstream.installer.slots import Denied
from slipstream.installer.states import BootedNew, Condemn, FellBack, Open, Retired, Transaction
from slipstream.installer.status import Status, read_status
from tests.installer.lab import Lab, LabRelease, change, make_image

IMAGE = make_image(1, 3 * CHUNK_BYTES)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def update(lab: Lab) -> LabRelease:
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    return lab.publish("2.0", 2, change(IMAGE, 9), source=IMAGE)


def status(lab: Lab) -> Status:
    found = read_status(lab.device())
    json.dumps(found.to_json())
    return found


def test_a_new_device(lab: Lab) -> None:
    found = status(lab)

    assert "Booted: nothing that Slipstream installed" in found.to_words()
    assert "Slot a: empty" in found.to_words()
    assert "Newest metadata of the repository: none yet" in found.to_words()
    assert found.to_json()["state"] == "idle"
    assert found.to_json()["trial"] is False


@pytest.mark.parametrize(
    "kept, words",
    [
        (None, "was not seen to work on this board yet"),
        ('{"moved":true,"loader":"fake boot loader 1"}', "Boot counting works on this board"),
        ('{"moved":true,"loader":"fake boot loader 0"}', "was not seen to work on this board yet"),
        ('{"moved":false,"loader":"fake boot loader 1"}', "was seen not to work on this board"),
    ],
)
def test_what_is_known_of_boot_counting(lab: Lab, kept: str | None, words: str) -> None:
    if kept is not None:
        lab.device()
        (lab.folder / "state/counting.json").write_text(kept)
    assert words in status(lab).to_words()
    assert status(lab).to_json()["boot_counting"] in ("proved", "stuck", "unknown")


def test_an_install_under_way(lab: Lab, update: LabRelease) -> None:
    device = lab.device()
    device.journal.record(Open(Transaction("id", update.digest, "2.0", 2, "b", ("rootfs",))))
    device.journal.record(Retired())
    device.journal.checkpoint(Checkpoint("id", "rootfs", 3, 500_000))

    found = status(lab)

    assert "Under way: release 2.0 in slot b: streaming" in found.to_words()
    assert "500,000 bytes of it stand in the slot" in found.to_words()
    assert found.to_json()["transaction"]["release"] == "2.0"


@pytest.mark.parametrize(
    "images, frames",
    [
        (("rootfs",), "500,000"),
        (("rootfs", "kernel"), None),  # the kernel's checkpoints say that rootfs is done
    ],
)
def test_an_image_is_whole_once_the_next_one_is_written(
    lab: Lab, update: LabRelease, images: tuple[str, ...], frames: str | None
) -> None:
    device = lab.device()
    digest = device.slots.keep_manifest(update.raw)
    device.journal.record(Open(Transaction("id", digest, "2.0", 2, "b", ("rootfs", "kernel"))))
    device.journal.record(Retired())
    for name, done in (("rootfs", 500_000), ("kernel", 7)):
        if name in images:
            device.journal.checkpoint(Checkpoint("id", name, 3, done))

    words = frames or f"{len(update.images['rootfs'].data) + 7:,}"
    assert f"{words} bytes of it stand in the slot" in status(lab).to_words()


def test_a_committed_release(lab: Lab, update: LabRelease) -> None:
    # The end of the slot stands already: no frame of it is written, and no checkpoint ends there.
    data = update.images["rootfs"].data
    with lab.slot("b").open("r+b") as file:
        file.seek(CHUNK_BYTES)
        file.write(data[CHUNK_BYTES:])
    kernel = lab.device().boot_file("b", "kernel")
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(update.images["kernel"].data)
    asyncio.run(lab.install())

    found = status(lab)
    document = found.to_json()
    size = sum(len(image.data) for image in update.images.values())

    assert f"{size:,} bytes of it stand in the slot" in found.to_words()

    assert "Slot b: release 2.0, trial, 3 tries left" in found.to_words()
    assert "Newest metadata of the repository: stored 20" in found.to_words()
    assert "1 reports wait for the server" in found.to_words()
    assert document["state"] == "committed"
    assert document["trial"] is False
    assert document["slots"][1]["entry"]["tries_left"] == 3
    root = update.images["rootfs"].tree.tuple.root
    assert document["slots"][1]["images"]["rootfs"] == root.hex


def test_a_trial_is_read_from_the_entry(lab: Lab, update: LabRelease) -> None:
    asyncio.run(lab.install())
    lab.reboot()

    found = status(lab)

    assert "Booted: release 2.0 from slot b, on trial" in found.to_words()
    assert found.to_json()["booted"]["root"] == update.images["rootfs"].tree.tuple.root.hex
    assert found.to_json()["trial"] is True


def test_the_last_try_is_still_a_trial(lab: Lab, update: LabRelease) -> None:
    """Its name has no tries left, as that of a release that was left has."""
    asyncio.run(lab.install())
    for _ in range(3):
        assert lab.reboot() == "b"

    found = status(lab)

    assert "Booted: release 2.0 from slot b, on trial" in found.to_words()
    assert "Slot b: release 2.0, trial, its last try" in found.to_words()
    assert found.to_json()["trial"] is True
    assert lab.reboot() == "a"
    assert status(lab).to_json()["trial"] is False
    assert "Slot b: release 2.0, bad, 0 tries left" in status(lab).to_words()


def test_an_install_at_work_is_seen_from_outside(lab: Lab, update: LabRelease) -> None:
    """At every fetch, while the installer holds the lock; and looking changes nothing."""
    seen: list[Status] = []
    lab.fetcher.hook = lambda _: seen.append(status(lab))

    asyncio.run(lab.install())

    states = [type(one.state).__name__ for one in seen]
    assert list(dict.fromkeys(states)) == ["Idle", "Streaming"]
    assert "Slot b: release 2.0, writing; does not boot" in seen[-1].to_words()
    assert "Under way: release 2.0 in slot b: streaming" in seen[-1].to_words()
    assert all(one.booted.slot == "a" and not one.to_json()["trial"] for one in seen)


def test_without_its_state_folder_a_device_still_says_what_boots(
    lab: Lab, update: LabRelease
) -> None:
    asyncio.run(lab.install())
    shutil.rmtree(lab.folder / "state")

    found = status(lab)

    words = found.to_words()
    assert "Booted: release unknown from slot a" in words
    assert "Slot a: release counter 1, good" in words
    assert "Slot b: release counter 2, trial, 3 tries left" in words
    assert "Note: no stored floor: the running release's is taken (1)" in words
    assert found.to_json()["state"] == "idle"


@pytest.mark.parametrize("raw", [b"", b"\xff\x00 junk", b"[1, 2]", b'{"format": "other"}'])
def test_a_broken_state_folder_is_said_and_set_aside(
    lab: Lab, update: LabRelease, raw: bytes
) -> None:
    asyncio.run(lab.install())
    names = ("tx.json", "slots.json", "denied.json")
    for name in (*names, "tx.log", "floor.0", "floor.1", "time.0", "time.1", "reboots.json"):
        (lab.folder / "state" / name).write_bytes(raw)
    (lab.folder / "state" / "events.jsonl").write_bytes(raw + b"\n")

    words = status(lab).to_words()

    assert "Slot b: release counter 2, trial, 3 tries left" in words
    for name in names:
        assert f"Note: {name} was not readable" in words
        assert (lab.folder / "state" / f"{name}.broken").read_bytes() == raw
    assert "no stored floor" in words


def test_a_release_that_fell_back_is_named_with_its_reason(lab: Lab, update: LabRelease) -> None:
    asyncio.run(lab.install())
    device = lab.device()
    for event in (BootedNew(), Condemn("health: dns"), FellBack("health: dns")):
        device.journal.record(event)
    device.slots.deny(Denied("2.0", 2, update.digest, "health: dns", 0))

    words, document = status(lab).to_words(), status(lab).to_json()

    assert "Last update: release 2.0 did not prove itself and was left: health: dns" in words
    assert "Not tried again: release 2.0: health: dns" in words
    assert document["last"]["outcome"] == "fell_back"
    assert document["failed"] == [{"release": "2.0", "counter": 2, "reason": "health: dns"}]


def test_a_slot_being_written_does_not_boot(lab: Lab, update: LabRelease) -> None:
    asyncio.run(lab.install())
    lab.fake.retire("b")

    assert "Slot b: release 2.0, installed; does not boot" in status(lab).to_words()


def test_the_floor_is_the_running_releases_when_it_was_lost(lab: Lab, update: LabRelease) -> None:
    (lab.folder / "release.json").write_text('{"release": "1.0", "counter": 1, "floor": 1}')

    found = status(lab)

    assert found.floor == 1
    assert "no stored floor: the running release's is taken (1)" in found.to_words()


def test_without_any_record_the_floor_is_the_booted_counter(lab: Lab, update: LabRelease) -> None:
    assert status(lab).floor == 1


@pytest.mark.parametrize("words", ['"issued": 1e30', '"issued": 99999999999999', '"floor": -1'])
def test_a_release_file_with_impossible_numbers_is_said(
    lab: Lab, update: LabRelease, words: str
) -> None:
    (lab.folder / "release.json").write_text(f'{{"release": "1.0", {words}}}')
    assert "says nothing of the running release" in status(lab).to_words()
    assert lab.device().now() == lab.clock.time


def test_the_stored_floor_wins_and_nothing_is_said(lab: Lab, update: LabRelease) -> None:
    lab.device().floors.raise_to(2)

    assert status(lab).floor == 2
    assert status(lab).notices == ()


def test_status_needs_no_lock(lab: Lab, update: LabRelease) -> None:
    with lab.device().lock():
        assert status(lab).booted.slot == "a"
