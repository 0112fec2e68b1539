"""One suite for every boot control: what the rest of the installer may rely on.

Subclass BootControlConformance and give it a `rig` fixture. The suite knows nothing of files.
"""

from pathlib import Path
from typing import Protocol

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.delta.manifest import Place
from slipstream.installer.ports import BootControl, Booted, BootFiles, EntryState


class Rig(Protocol):
    """A device whose boot control is on trial. `control` is made anew: as after a restart."""

    def control(self) -> BootControl: ...

    def boot_files(self, counter: int) -> BootFiles:
        """Files of the release with this counter; its root hash is root_of(counter)."""
        ...

    def leave_room(self, room_bytes: int) -> None:
        """From now on boot files of so many bytes fit beside what stands there."""
        ...

    def boot(self) -> Booted | None:
        """Restart the device: the boot loader chooses, counts and starts."""
        ...


def root_of(counter: int) -> Digest:
    return Digest.of(b"root of release %d" % counter)


def install(rig: Rig, slot: str, counter: int) -> None:
    control = rig.control()
    control.retire(slot)
    control.stage(slot, counter, rig.boot_files(counter))
    control.publish(slot, counter)


def install_good(rig: Rig, slot: str, counter: int) -> None:
    install(rig, slot, counter)
    assert rig.boot() == Booted(slot, counter, root_of(counter))
    rig.control().confirm(slot, counter)


def states(rig: Rig) -> dict[str, tuple[int, EntryState, int | None]]:
    return {e.slot: (e.counter, e.state, e.tries_left) for e in rig.control().entries()}


class BootControlConformance:
    """The tests. `rig` starts with nothing installed and nothing known of what is booted."""

    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        raise NotImplementedError

    def test_starts_empty(self, rig: Rig) -> None:
        assert rig.control().entries() == ()
        assert rig.control().booted().slot is None
        rig.control().check("a", 0)

    def test_published_entry_is_on_trial_and_boots(self, rig: Rig) -> None:
        install(rig, "a", 1)
        assert states(rig) == {"a": (1, EntryState.TRIAL, 3)}
        assert rig.boot() == Booted("a", 1, root_of(1))
        assert rig.control().booted() == Booted("a", 1, root_of(1))
        assert states(rig) == {"a": (1, EntryState.TRIAL, 2)}

    def test_staged_entry_is_not_visible_and_does_not_boot(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        rig.control().stage("b", 2, rig.boot_files(2))
        assert states(rig) == {"a": (1, EntryState.GOOD, None)}
        assert rig.boot() == Booted("a", 1, root_of(1))

    def test_confirmed_entry_keeps_booting(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        for _ in range(6):
            assert rig.boot() == Booted("a", 1, root_of(1))
        assert states(rig) == {"a": (1, EntryState.GOOD, None)}

    def test_newer_release_boots_first_whatever_the_slots_are_called(self, rig: Rig) -> None:
        install_good(rig, "b", 9)
        install_good(rig, "a", 10)
        assert rig.boot() == Booted("a", 10, root_of(10))
        install_good(rig, "b", 11)
        assert rig.boot() == Booted("b", 11, root_of(11))

    def test_falls_back_when_the_tries_are_gone(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        booted = [rig.boot() for _ in range(5)]
        assert [one.slot if one else None for one in booted] == ["b", "b", "b", "a", "a"]
        assert states(rig)["b"] == (2, EntryState.BAD, 0)
        assert states(rig)["a"] == (1, EntryState.GOOD, None)

    def test_condemned_trial_is_left_at_once(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        rig.boot()
        rig.control().condemn("b", 2)
        assert states(rig)["b"] == (2, EntryState.BAD, 0)
        assert rig.boot() == Booted("a", 1, root_of(1))

    def test_condemned_good_entry_is_left_too(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install_good(rig, "b", 2)
        rig.control().condemn("b", 2)
        assert states(rig)["b"] == (2, EntryState.BAD, 0)
        assert rig.boot() == Booted("a", 1, root_of(1))

    def test_the_only_entry_boots_even_when_it_is_bad(self, rig: Rig) -> None:
        install(rig, "a", 1)
        rig.control().condemn("a", 1)
        assert rig.boot() == Booted("a", 1, root_of(1))

    def test_what_else_would_be_started(self, rig: Rig) -> None:
        assert rig.control().alternatives("a") == ()
        install(rig, "a", 1)
        assert rig.control().alternatives("a") == ()
        install_good(rig, "b", 2)
        assert len(rig.control().alternatives("a")) == 1
        assert len(rig.control().alternatives("b")) == 1  # it has tries left
        rig.control().condemn("a", 1)
        assert rig.control().alternatives("b") == ()

    @pytest.mark.parametrize("verb", ["retire", "stage"])
    def test_refuses_to_touch_the_booted_slot(self, rig: Rig, verb: str) -> None:
        install_good(rig, "a", 1)
        control, files = rig.control(), rig.boot_files(2)
        touch = {
            "retire": lambda: control.retire("a"),
            "stage": lambda: control.stage("a", 2, files),
        }
        with pytest.raises(DeviceFault):
            touch[verb]()
        assert rig.boot() == Booted("a", 1, root_of(1))

    def test_retire_removes_entry_and_leftovers(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        rig.control().retire("b")
        assert states(rig) == {"a": (1, EntryState.GOOD, None)}
        rig.control().stage("b", 3, rig.boot_files(3))
        rig.control().retire("b")
        with pytest.raises(DeviceFault):
            rig.control().publish("b", 3)
        assert rig.boot() == Booted("a", 1, root_of(1))

    def test_publish_refuses_what_was_not_staged(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        with pytest.raises(DeviceFault):
            rig.control().publish("b", 2)

    def test_publish_refuses_a_slot_that_has_another_entry(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        rig.control().stage("b", 3, rig.boot_files(3))
        with pytest.raises(DeviceFault):
            rig.control().publish("b", 3)
        assert states(rig)["b"] == (2, EntryState.TRIAL, 3)

    def test_confirm_and_condemn_refuse_what_is_not_there(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        for verb in (rig.control().confirm, rig.control().condemn):
            with pytest.raises(DeviceFault):
                verb("b", 2)
            with pytest.raises(DeviceFault):
                verb("a", 2)

    def test_a_start_that_was_counted_is_seen(self, rig: Rig) -> None:
        assert rig.control().counted().moved is None
        install_good(rig, "a", 1)
        rig.boot()
        assert rig.control().counted().moved is None  # good entries are not counted
        install(rig, "b", 2)
        assert rig.control().counted().moved is None  # that is another start's name
        for _ in range(3):
            rig.boot()
            assert rig.control().counted().moved is True
        rig.control().confirm("b", 2)
        assert rig.control().counted().moved is None
        rig.boot()
        assert rig.control().counted().moved is None

    def test_the_files_that_an_entry_boots_from(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        rig.control().stage("b", 2, rig.boot_files(2))
        for place in Place:
            expected = rig.boot_files(1).files.get(place)
            found = rig.control().entry_file("a", 1, place)
            assert (found and found.read_bytes()) == (expected and expected.read_bytes())
            assert rig.control().entry_file("a", 2, place) is None
            assert rig.control().entry_file("b", 2, place) is None  # not visible

    def test_every_step_may_be_repeated(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        for _ in range(2):
            rig.control().retire("b")
        for _ in range(2):
            rig.control().stage("b", 2, rig.boot_files(2))
        for _ in range(2):
            rig.control().publish("b", 2)
        rig.boot()
        # Publishing again does not give the tries back.
        rig.control().publish("b", 2)
        assert states(rig)["b"] == (2, EntryState.TRIAL, 2)
        for _ in range(2):
            rig.control().confirm("b", 2)
        assert states(rig)["b"] == (2, EntryState.GOOD, None)
        for _ in range(2):
            rig.control().condemn("b", 2)
        assert states(rig)["b"] == (2, EntryState.BAD, 0)

    def test_preflight_refuses_while_the_running_release_is_on_trial(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        rig.control().check("b", 0)
        install(rig, "b", 2)
        rig.boot()
        with pytest.raises(DeviceFault, match="trial"):
            rig.control().check("a", 0)
        rig.control().confirm("b", 2)
        rig.control().check("a", 0)

    def test_preflight_refuses_to_give_the_only_good_release_away(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        rig.boot()
        rig.control().condemn("b", 2)  # it still runs; slot a is what a reboot brings
        with pytest.raises(DeviceFault, match="no tries left"):
            rig.control().check("a", 0)
        rig.boot()
        rig.control().check("b", 0)

    def test_preflight_lets_a_bad_release_be_replaced_when_no_other_is_good(self, rig: Rig) -> None:
        install(rig, "a", 1)
        rig.boot()
        rig.control().condemn("a", 1)
        rig.control().check("b", 0)

    def test_preflight_refuses_boot_files_that_do_not_fit(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        rig.leave_room(1000)
        rig.control().check("b", 1000)
        with pytest.raises(DeviceFault, match="too small"):
            rig.control().check("b", 1001)

    def test_preflight_counts_the_room_that_the_target_slot_takes(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        rig.control().condemn("b", 2)
        rig.boot()
        held = sum(path.stat().st_size for path in rig.boot_files(2).files.values())
        rig.leave_room(0)
        rig.control().check("b", held)
        with pytest.raises(DeviceFault, match="too small"):
            rig.control().check("b", held + 10_000)

    def test_a_lost_trial_is_put_back(self, rig: Rig) -> None:
        install_good(rig, "a", 1)
        install(rig, "b", 2)
        rig.control().retire("b")  # what the firmware does when its rename is cut
        assert rig.boot() == Booted("a", 1, root_of(1))
        rig.control().stage("b", 2, rig.boot_files(2))
        rig.control().publish("b", 2)
        assert rig.boot() == Booted("b", 2, root_of(2))
