"""What the device remembers: it survives, it is bounded, and a broken file costs only itself."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import DENIED_RELEASES_MAX, EVENTS_KEPT_MAX
from slipstream.installer.slots import (
    Denied,
    Report,
    SlotRecord,
    Slots,
    SlotState,
    make_folders,
)
from tests.installer.lab import Lab, make_image

ROOT = Digest.of(b"root")
RECORD = SlotRecord("a", SlotState.INSTALLED, "1.0", 1, Digest.of(b"manifest"), {"rootfs": ROOT})
DENIED = Denied("1.0", 1, Digest.of(b"manifest"), "health: dns", 5)
REPORT = Report("key", "installed", "1.0", 1, "", 5, ROOT.hex, {"tries": 1})


def ignore(_: str) -> None:
    pass


def test_no_report_is_lost_between_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent delivers while a command settles a trial: delivering holds no installer's lock."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    old = [replace(REPORT, key=f"old-{number}") for number in range(50)]
    new = [replace(REPORT, key=f"new-{number}") for number in range(50)]
    for one in old:
        Slots(tmp_path, ignore).report(one)

    with ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(lambda: [Slots(tmp_path, ignore).report(one) for one in new]),
            pool.submit(lambda: [Slots(tmp_path, ignore).delivered(one.key) for one in old]),
        ]
        for one in done:
            one.result()

    assert list(Slots(tmp_path, pytest.fail).reports()) == new


def test_records_survive(tmp_path: Path) -> None:
    other = SlotRecord("b", SlotState.WRITING, "2.0", 2, None, {})
    Slots(tmp_path, ignore).remember(RECORD)
    Slots(tmp_path, ignore).remember(other)

    slots = Slots(tmp_path, pytest.fail)

    assert slots.records() == {"a": RECORD, "b": other}
    assert slots.record("c") == SlotRecord("c")


def test_denials_survive_once_each(tmp_path: Path) -> None:
    slots = Slots(tmp_path, ignore)
    slots.deny(DENIED)
    slots.deny(replace(DENIED, reason="again"))

    again = Slots(tmp_path, pytest.fail)

    assert again.denied() == (replace(DENIED, reason="again"),)
    assert again.is_denied(DENIED.manifest) == again.denied()[0]
    assert again.is_denied(ROOT) is None


def test_the_oldest_denials_go(tmp_path: Path) -> None:
    slots = Slots(tmp_path, ignore)
    for number in range(DENIED_RELEASES_MAX + 2):
        slots.deny(replace(DENIED, manifest=Digest.of(b"%d" % number), counter=number))

    assert [one.counter for one in slots.denied()] == list(range(2, DENIED_RELEASES_MAX + 2))


def test_reports_wait_until_they_are_delivered(tmp_path: Path) -> None:
    slots = Slots(tmp_path, ignore)
    slots.report(REPORT)
    slots.report(REPORT)
    slots.report(replace(REPORT, key="two"))

    assert Slots(tmp_path, pytest.fail).reports() == (REPORT, replace(REPORT, key="two"))
    slots.delivered("key")
    assert [one.key for one in slots.reports()] == ["two"]


def test_the_oldest_reports_go(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"")
    slots = Slots(tmp_path, ignore)
    slots._write_reports([replace(REPORT, key=str(n)) for n in range(EVENTS_KEPT_MAX)])
    slots.report(replace(REPORT, key="new"))

    keys = [one.key for one in slots.reports()]
    assert (len(keys), keys[0], keys[-1]) == (EVENTS_KEPT_MAX, "1", "new")


def test_a_broken_report_costs_only_itself(tmp_path: Path) -> None:
    slots = Slots(tmp_path, ignore)
    slots.report(REPORT)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"key": "torn\n')
    notices: list[str] = []

    assert Slots(tmp_path, notices.append).reports() == (REPORT,)
    assert "that report is lost" in notices[0]


@pytest.mark.parametrize("name", ["slots.json", "denied.json"])
def test_a_broken_file_is_set_aside(tmp_path: Path, name: str) -> None:
    slots = Slots(tmp_path, ignore)
    slots.remember(RECORD)
    slots.deny(DENIED)
    (tmp_path / name).write_text('{"slots": [{"slot": 5}], "denied": [{}]}')
    notices: list[str] = []
    broken = Slots(tmp_path, notices.append)

    broken.records()
    broken.denied()

    assert len(notices) == 1
    assert (tmp_path / f"{name}.broken").exists()


def test_manifests_are_kept_while_a_slot_names_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    make_folders(tmp_path)
    one, two, three = (lab.publish(f"{n}.0", n, make_image(n, 5000)) for n in (1, 2, 3))
    slots = Slots(tmp_path, ignore)
    for slot, release in (("a", one), ("b", two)):
        slots.keep_manifest(release.raw)
        slots.remember(replace(RECORD, slot=slot, manifest=release.digest))

    slots.keep_manifest(three.raw)
    slots.remember(replace(RECORD, slot="b", manifest=three.digest))
    slots.keep_manifest(three.raw)

    assert slots.manifest(one.digest) == one.manifest
    assert slots.manifest(two.digest) is None
    assert slots.manifest(three.digest) == three.manifest


def test_a_changed_manifest_is_not_believed(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    make_folders(tmp_path)
    notices: list[str] = []
    slots = Slots(tmp_path, notices.append)
    digest = slots.keep_manifest(lab.publish("1.0", 1, make_image(1, 5000)).raw)
    path = tmp_path / "manifests" / f"{digest}.json"
    path.write_bytes(path.read_bytes().replace(b"1.0", b"6.6"))

    assert slots.manifest(digest) is None
    assert "not what was signed" in notices[0]


def test_a_state_folder_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    with pytest.raises(DeviceFault, match="could not be made"):
        make_folders(tmp_path / "state")
