"""What the device remembers: what each slot holds, denied releases, reports not yet delivered.

slots.json            per slot: release, counter, manifest digest, root of every image
manifests/<digest>    manifests of the releases in the slots
denied.json           releases that fell back or failed: not tried again until a newer one
events.jsonl          reports for the server, kept until it has them

All of it is a hint but denied.json. A missing or broken file is an empty one, said aloud.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import msgspec

from slipstream.delta.digest import Digest
from slipstream.delta.durable import write_durably
from slipstream.delta.errors import Rejected
from slipstream.delta.limits import (
    DENIED_RELEASES_MAX,
    EVENTS_KEPT_MAX,
    MANIFEST_BYTES_MAX,
    STATE_FILE_BYTES_MAX,
)
from slipstream.delta.manifest import Manifest, parse_manifest
from slipstream.installer.state_file import read_state, state_fault, write_state
from slipstream.installer.states import Transaction


class SlotState(StrEnum):
    """What the device remembers of a slot. Its boot entry says more."""

    EMPTY = "empty"
    WRITING = "writing"
    INSTALLED = "installed"


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """A slot's content as last recorded. `images` maps an image's name to its root.

    `notes` are what its install had to say: deltas that this device cannot use, chunks that came
    out differently. `stopped` is why the last attempt to write it ended; "" where none did.
    """

    slot: str
    state: SlotState = SlotState.EMPTY
    release: str | None = None
    counter: int | None = None
    manifest: Digest | None = None
    images: Mapping[str, Digest] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """A release that this device does not try again. `at` is seconds since 1970."""

    release: str
    counter: int
    manifest: Digest
    reason: str
    at: int

    @classmethod
    def of(cls, transaction: Transaction, reason: str, now: datetime) -> Self:
        """The denial of a transaction's release."""
        seconds = int(now.timestamp())
        return cls(transaction.release, transaction.counter, transaction.manifest, reason, seconds)


@dataclass(frozen=True, slots=True)
class Report:
    """Something the server shall hear, at least once. `key` makes the second time harmless."""

    key: str
    kind: str
    release: str
    counter: int
    reason: str
    at: int
    booted_root: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Slots:
    """The state folder's memory. Every change is durable when the call returns.

    Without `repair`, reading changes nothing either: broken files are not set aside.
    """

    def __init__(
        self, folder: Path, on_notice: Callable[[str], None], *, repair: bool = True
    ) -> None:
        self._folder = folder
        self._notice = on_notice
        self._repair = repair

    # --- slots

    def records(self) -> dict[str, SlotRecord]:
        """What is recorded, by slot name."""
        path = self._folder / "slots.json"
        found = read_state(path, _WireSlots, _parse_slots, self._notice, repair=self._repair)
        return found or {}

    def record(self, slot: str) -> SlotRecord:
        """What is recorded of one slot; an empty record when nothing is."""
        return self.records().get(slot, SlotRecord(slot))

    def remember(self, record: SlotRecord) -> None:
        """Replace the record of a slot."""
        records = self.records() | {record.slot: record}
        wire = _WireSlots([_dump_slot(records[name]) for name in sorted(records)])
        write_state(self._folder / "slots.json", wire)

    # --- manifests

    def keep_manifest(self, raw: bytes) -> Digest:
        """Keep the bytes of a manifest, and drop those that no slot names."""
        digest = Digest.of(raw)
        folder = self._folder / "manifests"
        named = {record.manifest for record in self.records().values()} | {digest}
        names = {f"{one}.json" for one in named if one is not None}
        try:
            folder.mkdir(exist_ok=True)
            write_durably(folder / f"{digest}.json", raw)
            for path in folder.glob("*.json"):
                if path.name not in names:
                    path.unlink()
        except OSError as error:
            raise state_fault(folder, "written", error) from error
        return digest

    def manifest(self, digest: Digest) -> Manifest | None:
        """The kept manifest of that digest; None when it is gone or its bytes changed."""
        path = self._folder / "manifests" / f"{digest}.json"
        try:
            with path.open("rb") as file:
                raw = file.read(MANIFEST_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise state_fault(path, "read", error) from error
        try:
            digest.check(raw, "a kept manifest", path)
            return parse_manifest(raw)
        except Rejected as error:
            self._notice(str(error))
            return None

    # --- denied releases

    def denied(self) -> tuple[Denied, ...]:
        """Oldest first."""
        path = self._folder / "denied.json"
        notice, repair = self._notice, self._repair
        return read_state(path, _WireDeniedList, _parse_denied, notice, repair=repair) or ()

    def is_denied(self, manifest: Digest) -> Denied | None:
        """Why the release with this manifest is not tried again; None when it may be."""
        return next((one for one in self.denied() if one.manifest == manifest), None)

    def deny(self, denied: Denied) -> None:
        """Do not try this release again. The oldest denials go when there are too many."""
        kept = [one for one in self.denied() if one.manifest != denied.manifest]
        rows = [*kept, denied][-DENIED_RELEASES_MAX:]
        write_state(self._folder / "denied.json", _WireDeniedList([_dump_denied(r) for r in rows]))

    def forgive(self, release: str) -> bool:
        """Let this release be tried again; False if it was not denied."""
        denied = self.denied()
        kept = [one for one in denied if one.release != release]
        if len(kept) == len(denied):
            return False
        write_state(self._folder / "denied.json", _WireDeniedList([_dump_denied(r) for r in kept]))
        return True

    # --- reports

    def report(self, report: Report) -> None:
        """Queue a report. One with a key that is queued already changes nothing."""
        with self._queue():
            queued = self.reports()
            if any(one.key == report.key for one in queued):
                return
            self._write_reports([*queued, report][-EVENTS_KEPT_MAX:])

    def reports(self) -> tuple[Report, ...]:
        """Reports not yet delivered, oldest first. A line that does not parse is dropped."""
        path = self._folder / "events.jsonl"
        try:
            with path.open("rb") as file:
                raw = file.read(STATE_FILE_BYTES_MAX)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise state_fault(path, "read", error) from error
        reports: list[Report] = []
        for line in raw.splitlines():
            try:
                reports.append(msgspec.json.decode(line, type=Report))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._notice(f"a line of {path.name} was not readable; that report is lost")
        return tuple(reports)

    def delivered(self, key: str) -> None:
        """The server has the report with this key."""
        with self._queue():
            self._write_reports([one for one in self.reports() if one.key != key])

    @contextmanager
    def _queue(self) -> Iterator[None]:
        """The queue for one writer, waiting for its turn.

        The agent delivers without the installer's lock, while a command may settle a trial.
        """
        path = self._folder / "events.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise state_fault(path, "locked", error) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def _write_reports(self, reports: list[Report]) -> None:
        path = self._folder / "events.jsonl"
        raw = b"".join(msgspec.json.encode(one) + b"\n" for one in reports)
        try:
            write_durably(path, raw)
        except OSError as error:
            raise state_fault(path, "written", error) from error


def make_folders(state: Path) -> None:
    """The state folder and its folders, private to the updater. Raises DeviceFault."""
    try:
        for name in ("", "manifests", "files", "spool", "metadata"):
            os.makedirs(state / name, mode=0o700, exist_ok=True)
    except OSError as error:
        raise state_fault(state, "made", error) from error


# --- the wire


class _WireSlot(msgspec.Struct):
    slot: str
    state: SlotState
    release: str | None
    counter: int | None
    manifest: str | None
    images: dict[str, str]
    notes: tuple[str, ...] = ()
    stopped: str = ""


class _WireSlots(msgspec.Struct):
    slots: list[_WireSlot]


class _WireDenied(msgspec.Struct):
    release: str
    counter: int
    manifest: str
    reason: str
    at: int


class _WireDeniedList(msgspec.Struct):
    denied: list[_WireDenied]


def _dump_slot(value: SlotRecord) -> _WireSlot:
    return _WireSlot(
        slot=value.slot,
        state=value.state,
        release=value.release,
        counter=value.counter,
        manifest=None if value.manifest is None else value.manifest.hex,
        images={name: root.hex for name, root in sorted(value.images.items())},
        notes=value.notes,
        stopped=value.stopped,
    )


def _parse_slots(wire: _WireSlots) -> dict[str, SlotRecord]:
    return {
        row.slot: SlotRecord(
            slot=row.slot,
            state=row.state,
            release=row.release,
            counter=row.counter,
            manifest=None if row.manifest is None else Digest.parse_hex(row.manifest),
            images={name: Digest.parse_hex(root) for name, root in row.images.items()},
            notes=row.notes,
            stopped=row.stopped,
        )
        for row in wire.slots
    }


def _dump_denied(value: Denied) -> _WireDenied:
    return _WireDenied(value.release, value.counter, value.manifest.hex, value.reason, value.at)


def _parse_denied(wire: _WireDeniedList) -> tuple[Denied, ...]:
    return tuple(
        Denied(row.release, row.counter, Digest.parse_hex(row.manifest), row.reason, row.at)
        for row in wire.denied
    )
