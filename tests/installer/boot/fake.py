"""A boot loader in memory: implements ports.BootControl, and boots.

Used by the tests of the installer wherever the boot loader itself is not the subject. It passes
the same conformance suite as the real adapters.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from slipstream.delta.cmdline import parse_root
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.delta.manifest import Place
from slipstream.installer.blocking import GoOn, unasked
from slipstream.installer.ports import Booted, BootEntry, BootFiles, Counted, EntryState


@dataclass
class Staged:
    """What was staged for one entry: the bytes of its files, its options."""

    files: dict[Place, bytes]
    options: str
    paths: dict[Place, Path] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(len(data) for data in self.files.values())


class FakeBoot:
    """One boot loader; `calls` lists what was asked of it, `fault` is raised by the next change."""

    def __init__(self, *, tries: int = 3) -> None:
        self.size_bytes: int | None = None  # of the boot partition; None: enough for everything
        self.visible: dict[str, BootEntry] = {}  # by slot
        self.staged: dict[tuple[str, int], Staged] = {}
        self.calls: list[tuple[str, str, int | None]] = []
        self.running = Booted(slot=None, counter=None, root=None)
        self.counts = True  # the firmware writes the boot partition
        self.loader = "fake boot loader 1"
        self._counted: bool | None = None
        self.fault: Exception | None = None
        self._tries = tries

    # --- the world around it

    def boot(self) -> Booted | None:
        """Start what the boot loader would start, counting the try; None if there is nothing."""
        order = sorted(
            self.visible.values(),
            key=lambda entry: (entry.state is EntryState.BAD, -entry.counter),
        )
        if not order:
            return None
        entry = order[0]
        self._counted = None if entry.tries_left is None else self.counts
        if entry.tries_left is not None and self.counts:
            left = max(entry.tries_left - 1, 0)
            self._put(replace(entry, tries_left=left, tries_done=entry.tries_done + 1))
        options = self.staged[entry.slot, entry.counter].options
        self.running = Booted(entry.slot, entry.counter, parse_root(options))
        return self.running

    def preset(self, slot: str, counter: int, *, root: Digest | None = None) -> None:
        """A good, running entry that was there before the test began."""
        options = "" if root is None else f"roothash={root}"
        self.staged[slot, counter] = Staged({}, options)
        self._put(_entry(slot, counter, None))
        self.running = Booted(slot, counter, root)

    def leave_room(self, room_bytes: int) -> None:
        """From now on so many bytes of boot files fit beside what is staged."""
        self.size_bytes = room_bytes + sum(staged.size for staged in self.staged.values())

    def lose(self, slot: str) -> None:
        """The firmware loses the slot's entry."""
        del self.visible[slot]

    # --- ports.BootControl

    def check(self, slot: str, boot_bytes: int) -> None:
        others = sum(staged.size for key, staged in self.staged.items() if key[0] != slot)
        if self.size_bytes is not None and self.size_bytes - others < boot_bytes:
            raise DeviceFault("boot partition is too small for this release's boot files")
        entry = self.visible.get(self.running.slot or "")
        if self.running.slot is not None and entry is None:
            raise DeviceFault("the running release has no boot entry any more")
        if entry is None or entry.state is EntryState.GOOD:
            return
        if entry.state is EntryState.TRIAL:
            raise DeviceFault("the running release is still on trial")
        if any(one.state is EntryState.GOOD for one in self.visible.values()):
            raise DeviceFault("the running release has no tries left")

    def entries(self) -> tuple[BootEntry, ...]:
        return tuple(self.visible[slot] for slot in sorted(self.visible))

    def booted(self) -> Booted:
        return self.running

    def entry_file(self, slot: str, counter: int, place: Place) -> Path | None:
        entry = self.visible.get(slot)
        if entry is None or entry.counter != counter:
            return None
        return self.staged[slot, counter].paths.get(place)

    def alternatives(self, slot: str) -> tuple[str, ...]:
        return tuple(
            one.name
            for one in self.entries()
            if one.slot != slot and one.state is not EntryState.BAD
        )

    def counted(self) -> Counted:
        entry = self.visible.get(self.running.slot or "")
        gone = entry is None or entry.state is EntryState.GOOD
        return Counted(None if gone else self._counted, self.loader)

    def retire(self, slot: str) -> None:
        self._change("retire", slot, None)
        self._refuse_booted(slot)
        self.visible.pop(slot, None)
        for key in [key for key in self.staged if key[0] == slot]:
            del self.staged[key]

    def stage(self, slot: str, counter: int, boot: BootFiles, go_on: GoOn = unasked) -> None:
        go_on()
        self._change("stage", slot, counter)
        self._refuse_booted(slot)
        files = {place: Path(path).read_bytes() for place, path in boot.files.items()}
        self.staged[slot, counter] = Staged(files, boot.options, dict(boot.files))

    def publish(self, slot: str, counter: int) -> None:
        self._change("publish", slot, counter)
        entry = self.visible.get(slot)
        if entry is not None and entry.counter == counter:
            return
        if entry is not None:
            raise DeviceFault("slot already has a boot entry of another release")
        if (slot, counter) not in self.staged:
            raise DeviceFault("no staged boot entry")
        self._put(_entry(slot, counter, self._tries))

    def reclaim(self, slot: str, counter: int, boot: BootFiles) -> None:
        """Names in memory are not torn."""

    def confirm(self, slot: str, counter: int) -> None:
        self._change("confirm", slot, counter)
        self._put(replace(self._find(slot, counter), state=EntryState.GOOD, tries_left=None))

    def condemn(self, slot: str, counter: int) -> None:
        self._change("condemn", slot, counter)
        self._put(replace(self._find(slot, counter), state=EntryState.BAD, tries_left=0))

    def _change(self, verb: str, slot: str, counter: int | None) -> None:
        self.calls.append((verb, slot, counter))
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    def _refuse_booted(self, slot: str) -> None:
        if slot == self.running.slot:
            raise DeviceFault("will not touch the boot entry of the running release")

    def _find(self, slot: str, counter: int) -> BootEntry:
        entry = self.visible.get(slot)
        if entry is None or entry.counter != counter:
            raise DeviceFault("no boot entry of this release")
        return entry

    def _put(self, entry: BootEntry) -> None:
        state = entry.state
        if entry.tries_left is not None:
            state = EntryState.TRIAL if entry.tries_left else EntryState.BAD
        self.visible[entry.slot] = replace(entry, state=state)


def _entry(slot: str, counter: int, tries: int | None) -> BootEntry:
    state = EntryState.GOOD if tries is None else EntryState.TRIAL
    return BootEntry(slot, counter, state, tries, 0, f"{counter:04d}{slot}")
