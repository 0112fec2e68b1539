"""reboots.py: a reboot counts when it happened, once."""

from pathlib import Path

from slipstream.installer.device import BOOT_ID, open_device
from slipstream.installer.ports import BootEntry
from slipstream.installer.reboots import forget_reboots, note_reboot, reboots_of
from tests.installer.lab import Lab, make_image


def running(folder: Path) -> tuple[Lab, BootEntry]:
    lab = Lab(folder)
    lab.preinstall(lab.publish("1.0", 1, make_image(1)))
    (entry,) = lab.fake.entries()
    return lab, entry


def test_a_reboot_that_does_not_come_is_not_counted(tmp_path: Path) -> None:
    """Refused, killed, or the agent was: however often it is asked for in one boot."""
    lab, entry = running(tmp_path)
    for boots in range(4):
        assert reboots_of(lab.device(), entry) == boots
        for _ in range(5):
            note_reboot(lab.device())
            assert reboots_of(lab.device(), entry) == boots
        lab.boots += 1
    assert reboots_of(lab.device(), entry) == 4
    lab.boots += 1  # by somebody else
    assert reboots_of(lab.device(), entry) == 4
    forget_reboots(lab.device())
    assert reboots_of(lab.device(), entry) == 0


def test_what_an_earlier_release_of_the_updater_counted_is_read(tmp_path: Path) -> None:
    lab, entry = running(tmp_path)
    (lab.device().state / "reboots.json").write_text('{"transaction": "a-1", "count": 2}')
    assert reboots_of(lab.device(), entry) == 2
    note_reboot(lab.device())
    lab.boots += 1
    assert reboots_of(lab.device(), entry) == 3


def test_where_the_kernel_does_not_name_its_boots_each_one_counts(tmp_path: Path) -> None:
    lab, entry = running(tmp_path)
    device = lab.device()
    device.boot_id = ""
    note_reboot(device)
    note_reboot(device)
    assert reboots_of(device, entry) == 2


def test_the_kernel_names_its_boots(tmp_path: Path) -> None:
    lab, _ = running(tmp_path)
    assert open_device(lab.device().config).boot_id == BOOT_ID.read_text().strip() != ""
