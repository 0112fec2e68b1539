"""What the device is doing, from what is on disk: for people in words, for programs in JSON.

Reads boot entries, the booted root, the journal and the records; writes nothing but the
repair of broken state files.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from slipstream.delta.errors import DeviceFault, SlipstreamError
from slipstream.installer.counting import Proof, read_proof
from slipstream.installer.device import Device
from slipstream.installer.holds import Hold, HoldKind, Step
from slipstream.installer.permission import remembered_hold
from slipstream.installer.ports import Booted, BootEntry, EntryState
from slipstream.installer.prepare import check_cmdline, check_root, check_slots
from slipstream.installer.slots import Denied, SlotRecord, SlotState
from slipstream.installer.states import (
    Committed,
    Idle,
    Opened,
    Outcome,
    Result,
    Staged,
    State,
    Streaming,
    Transaction,
    Trial,
    Verified,
)

_COUNTING_WORDS = {
    Proof.PROVED: "Boot counting works on this board",
    Proof.STUCK: "Boot counting was seen not to work on this board",
    Proof.UNKNOWN: "Boot counting was not seen to work on this board yet",
}


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a device at one moment."""

    device: str
    product: str
    booted: Booted
    entries: tuple[BootEntry, ...]
    records: tuple[SlotRecord, ...]
    state: State
    counting: Proof
    floor: int
    denied: tuple[Denied, ...]
    reports_waiting: int
    metadata_stored: datetime | None
    written_bytes: int
    notices: tuple[str, ...]
    hold: Hold | None
    clock: datetime

    @property
    def transaction(self) -> Transaction | None:
        """What is under way, if anything is."""
        return None if isinstance(self.state, Idle) else self.state.transaction

    @property
    def last(self) -> Result | None:
        """How the last transaction ended, where none is under way."""
        return self.state.last if isinstance(self.state, Idle) else None

    def to_json(self) -> dict[str, Any]:
        """The status for programs."""
        transaction, last = self.transaction, self.last
        return {
            "device": self.device,
            "product": self.product,
            "booted": {
                "slot": self.booted.slot,
                "counter": self.booted.counter,
                "release": self._release_of(self.booted.slot),
                "root": None if self.booted.root is None else self.booted.root.hex,
            },
            "state": type(self.state).__name__.lower(),
            "trial": self._on_trial(),
            "transaction": None if transaction is None else _transaction_json(transaction),
            "last": None
            if last is None
            else {
                "outcome": last.outcome,
                "reason": last.reason,
                **_transaction_json(last.transaction),
            },
            "slots": [self._slot_json(record) for record in self.records],
            "waits": None if self.hold is None else self._hold_json(self.hold),
            "failed": [
                {"release": one.release, "counter": one.counter, "reason": one.reason}
                for one in self.denied
            ],
            "boot_counting": self.counting,
            "floor": self.floor,
            "reports_waiting": self.reports_waiting,
            "metadata_stored": None
            if self.metadata_stored is None
            else self.metadata_stored.isoformat(),
            "notices": list(self.notices),
        }

    def to_words(self) -> str:
        """The status for people, one thing a line."""
        lines = [f"Device {self.device}, product {self.product}", self._booted_words()]
        for record in self.records:
            lines.append(self._slot_words(record))
            lines += [f"  {note}" for note in record.notes]
            if record.stopped:
                lines.append(f"  the last attempt stopped: {record.stopped}")
        transaction, last = self.transaction, self.last
        if transaction is not None:
            state = type(self.state).__name__.lower()
            lines.append(
                f"Under way: release {transaction.release} in slot {transaction.slot}: {state}"
            )
            if self.written_bytes:
                lines.append(f"  {self.written_bytes:,} bytes of it stand in the slot")
        elif last is not None:
            lines.append(last_words(last))
        if self.hold is not None:
            lines.append(f"Waits: {self.hold.words(self.clock)}")
        lines += [f"Not tried again: release {one.release}: {one.reason}" for one in self.denied]
        lines.append(_COUNTING_WORDS[self.counting])
        lines.append(f"Accepts releases with a counter of at least {self.floor}")
        if self.reports_waiting:
            lines.append(f"{self.reports_waiting} reports wait for the server")
        stored = self.metadata_stored
        when = "none yet" if stored is None else f"stored {stored:%Y-%m-%d %H:%M:%SZ}"
        lines.append(f"Newest metadata of the repository: {when}")
        lines += [f"Note: {notice}" for notice in self.notices]
        return "\n".join(lines)

    def _hold_json(self, hold: Hold) -> dict[str, Any]:
        return {
            "step": hold.step,
            "for": hold.kind,
            "reason": hold.reason,
            "until": None if hold.until is None else hold.until.isoformat(),
            "words": hold.words(self.clock),
        }

    def _on_trial(self) -> bool:
        """Whether the booted entry still has to prove itself: its file name on the ESP says so.

        At the last try the name has no tries left, as that of a release that was left: then the
        journal says which it is.
        """
        entry = self._entry_of(self.booted.slot or "")
        if entry is None or entry.state is EntryState.GOOD:
            return False
        return entry.state is EntryState.TRIAL or self._is_last_try(entry)

    def _is_last_try(self, entry: BootEntry) -> bool:
        running = (self.booted.slot, self.booted.counter or entry.counter)
        transaction = self.transaction
        return (
            entry.state is EntryState.BAD
            and running == (entry.slot, entry.counter)
            and isinstance(self.state, Staged | Committed | Trial)
            and transaction is not None
            and (transaction.slot, transaction.counter) == running
        )

    def _release_of(self, slot: str | None) -> str | None:
        return next((one.release for one in self.records if one.slot == slot), None)

    def _entry_of(self, slot: str) -> BootEntry | None:
        return next((one for one in self.entries if one.slot == slot), None)

    def _booted_words(self) -> str:
        if self.booted.slot is None:
            return "Booted: nothing that Slipstream installed"
        release = self._release_of(self.booted.slot) or "unknown"
        trial = ", on trial" if self._on_trial() else ""
        return f"Booted: release {release} from slot {self.booted.slot}{trial}"

    def _slot_words(self, record: SlotRecord) -> str:
        entry = self._entry_of(record.slot)
        if record.state is SlotState.EMPTY and entry is None:
            return f"Slot {record.slot}: empty"
        if entry is None:
            return f"Slot {record.slot}: release {record.release}, {record.state}; does not boot"
        tries = "" if entry.tries_left is None else f", {entry.tries_left} tries left"
        name = record.release if record.counter == entry.counter else f"counter {entry.counter}"
        state = "trial, its last try" if self._is_last_try(entry) else f"{entry.state}{tries}"
        return f"Slot {record.slot}: release {name}, {state}"

    def _slot_json(self, record: SlotRecord) -> dict[str, Any]:
        entry = self._entry_of(record.slot)
        return {
            "name": record.slot,
            "state": record.state,
            "release": record.release,
            "counter": record.counter,
            "images": {name: root.hex for name, root in record.images.items()},
            "notes": list(record.notes),
            "stopped": record.stopped or None,
            "entry": None
            if entry is None
            else {
                "name": entry.name,
                "counter": entry.counter,
                "state": entry.state,
                "tries_left": entry.tries_left,
            },
        }


def read_status(device: Device) -> Status:
    """The status of a device. Takes no lock: an install may be under way. Raises DeviceFault.

    What is wrong in the configuration stands among the notices: an install would refuse it.
    """
    for check in (
        partial(check_slots, device.config),
        partial(check_root, device),
        partial(check_cmdline, device.config),
    ):
        try:
            check()
        except SlipstreamError as error:
            device.notices.append(str(error))
    records = device.slots.records()
    booted = device.boot.booted()
    return Status(
        device=device.config.device_id,
        product=device.config.product,
        booted=booted,
        entries=_entries_of(device),
        records=tuple(records.get(name, SlotRecord(name)) for name in sorted(device.config.slots)),
        state=device.journal.state,
        counting=read_proof(device),
        floor=device.floor(),
        denied=device.slots.denied(),
        reports_waiting=len(device.slots.reports()),
        metadata_stored=_metadata_stored(device),
        written_bytes=_written_bytes(device),
        hold=_hold_of(device),
        clock=device.clock.now(),
        notices=tuple(dict.fromkeys(device.notices)),
    )


def _written_bytes(device: Device) -> int:
    """Bytes of the transaction's release that stand in the slot.

    While it is written, what checkpoints say: those of an image end where the last of its frames
    that was missing ends, so an image is whole once there are checkpoints of one behind it.
    """
    state = device.journal.state
    if isinstance(state, Idle | Opened):
        return 0
    points = device.journal.checkpoints()
    done: dict[str, int] = {}
    for point in points:
        done[point.image] = max(done.get(point.image, 0), point.done_bytes)
    names = state.transaction.images
    manifest = device.slots.manifest(state.transaction.manifest)
    if manifest is not None:
        sizes = {image.name: image.tree.image_size for image in manifest.images}
        under_way = names.index(points[-1].image) if points and points[-1].image in names else 0
        whole = names[:under_way] if isinstance(state, Streaming) else names
        done |= {name: sizes[name] for name in whole if name in sizes}
    return sum(done.values())


def _entries_of(device: Device) -> tuple[BootEntry, ...]:
    """None where the boot partition is not there: that is what a person looks for in a status."""
    try:
        return device.boot.entries()
    except DeviceFault as error:
        device.notices.append(str(error))
        return ()


def _hold_of(device: Device) -> Hold | None:
    """What the agent waits for, unless that has passed: it may have been stopped since."""
    hold = remembered_hold(device)
    state = device.journal.state
    waits = isinstance(state, Committed) or (
        isinstance(state, Verified) and hold is not None and hold.kind is HoldKind.SERVER
    )
    return hold if hold is None or waits or hold.step is Step.INSTALL else None


def _metadata_stored(device: Device) -> datetime | None:
    """When the newest signed timestamp was stored. Not the last contact: a timestamp that the
    device has already is not stored again.
    """
    try:
        changed = (device.state / "metadata" / "timestamp.json").stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(changed, UTC)


def _transaction_json(transaction: Transaction) -> dict[str, Any]:
    return {
        "release": transaction.release,
        "counter": transaction.counter,
        "slot": transaction.slot,
        "manifest": transaction.manifest.hex,
    }


def last_words(last: Result) -> str:
    """How the last update ended, in a line."""
    release = f"release {last.transaction.release}"
    match last.outcome:
        case Outcome.CONFIRMED:
            return f"Last update: {release} was confirmed"
        case Outcome.FELL_BACK:
            return f"Last update: {release} did not prove itself and was left: {last.reason}"
        case Outcome.FAILED:
            return f"Last update: {release} could not be installed: {last.reason}"
