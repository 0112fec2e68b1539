"""The journal: which transaction is under way, and how far its writing came.

tx.json   the state (states.py), replaced atomically and durably at every step
tx.log    checkpoints, append-only, one line each: "<crc32, 8 hex digits> <json>"; a torn tail
          is dropped. A record is appended only after the data it describes is durable.

The journal is a hint: boot entries, the booted root and the slots' bytes are the truth. With
both files gone an install does the same as before, because the scan of the slot is the resume
(docs/adr/0007).
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from slipstream.delta.digest import Digest
from slipstream.delta.durable import sync_folder
from slipstream.delta.limits import STATE_FILE_BYTES_MAX
from slipstream.installer.state_file import read_state, state_fault, write_state
from slipstream.installer.states import (
    Committed,
    Condemned,
    Effect,
    Event,
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
    step,
)

_STATES: dict[str, type[Any]] = {
    kind.__name__.lower(): kind
    for kind in (Idle, Opened, Streaming, Verified, Staged, Committed, Trial, Condemned)
}
_FORMAT = "slipstream-tx-1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """So much of an image stood durably in the slot: frames before `frame`, `done_bytes` written."""

    transaction: str
    image: str
    frame: int
    done_bytes: int


class Journal:
    """The state of the device's update, on disk."""

    def __init__(self, folder: Path, on_notice: Callable[[str], None]) -> None:
        self._path = folder / "tx.json"
        self._log = folder / "tx.log"
        self._notice = on_notice
        self._state: State = Idle()
        self.reload()

    def reload(self) -> None:
        """Read the state again: whoever held the lock before may have moved it."""
        self._state = read_state(self._path, _Wire, _parse, self._notice) or Idle()

    @property
    def state(self) -> State:
        """Where the update stands, as far as the journal knows."""
        return self._state

    def record(self, event: Event) -> tuple[Effect, ...]:
        """Take one step of the table and make it durable. Raises Refused, DeviceFault."""
        state, effects = step(self._state, event)
        write_state(self._path, _dump(state))
        self._state = state
        return effects

    # --- checkpoints

    def checkpoint(self, point: Checkpoint) -> None:
        """Append a checkpoint durably. What it describes must be durable before."""
        body = msgspec.json.encode(_WirePoint(*_fields(point)))
        line = f"{zlib.crc32(body):08x} ".encode() + body + b"\n"
        try:
            fresh = not self._log.exists()
            descriptor = os.open(
                self._log,
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if fresh:
                sync_folder(self._log.parent)
        except OSError as error:
            raise state_fault(self._log, "written", error) from error

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """What the log says, up to its first torn line."""
        return self._read_log()[0]

    def begin_checkpoints(self, transaction: str) -> None:
        """Keep the checkpoints of this transaction, cut a torn tail off; forget any others."""
        points, good, size = self._read_log()
        try:
            if any(point.transaction != transaction for point in points):
                self._log.unlink()
                sync_folder(self._log.parent)
            elif good != size:
                os.truncate(self._log, good)
        except OSError as error:
            raise state_fault(self._log, "cut", error) from error

    def _read_log(self) -> tuple[tuple[Checkpoint, ...], int, int]:
        """Checkpoints, the bytes that they take, and the bytes of the log."""
        try:
            with self._log.open("rb") as file:
                raw = file.read(STATE_FILE_BYTES_MAX)
        except FileNotFoundError:
            return (), 0, 0
        except OSError as error:
            raise state_fault(self._log, "read", error) from error
        return *_parse_log(raw), len(raw)


def _parse_log(raw: bytes) -> tuple[tuple[Checkpoint, ...], int]:
    points: list[Checkpoint] = []
    good = 0
    for line in raw.split(b"\n")[:-1]:
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            break
        try:
            wire = msgspec.json.decode(body, type=_WirePoint)
        except msgspec.DecodeError:
            break
        points.append(Checkpoint(wire.transaction, wire.image, wire.frame, wire.done_bytes))
        good += len(line) + 1
    return tuple(points), good


def _fields(point: Checkpoint) -> tuple[str, str, int, int]:
    return point.transaction, point.image, point.frame, point.done_bytes


# --- the wire


class _WireTransaction(msgspec.Struct):
    id: str
    manifest: str
    release: str
    counter: int
    slot: str
    images: tuple[str, ...]
    restages: int


class _WireResult(msgspec.Struct):
    outcome: Outcome
    transaction: _WireTransaction
    reason: str


class _WirePoint(msgspec.Struct):
    transaction: str
    image: str
    frame: int
    done_bytes: int


class _Wire(msgspec.Struct):
    format: str
    state: str
    transaction: _WireTransaction | None = None
    reason: str = ""
    last: _WireResult | None = None


def _dump(state: State) -> _Wire:
    name = type(state).__name__.lower()
    if isinstance(state, Idle):
        last = state.last
        if last is None:
            return _Wire(_FORMAT, name)
        result = _WireResult(last.outcome, _dump_transaction(last.transaction), last.reason)
        return _Wire(_FORMAT, name, last=result)
    reason = state.reason if isinstance(state, Condemned) else ""
    return _Wire(_FORMAT, name, _dump_transaction(state.transaction), reason)


def _dump_transaction(value: Transaction) -> _WireTransaction:
    return _WireTransaction(
        id=value.id,
        manifest=value.manifest.hex,
        release=value.release,
        counter=value.counter,
        slot=value.slot,
        images=value.images,
        restages=value.restages,
    )


def _parse(wire: _Wire) -> State:
    kind = _STATES.get(wire.state)
    if wire.format != _FORMAT or kind is None:
        raise ValueError(f"format {wire.format!r}, state {wire.state!r}")
    if kind is Idle:
        last = wire.last
        if last is None:
            return Idle()
        return Idle(Result(last.outcome, _transaction(last.transaction), last.reason))
    if wire.transaction is None:
        raise ValueError(f"state {wire.state!r} without a transaction")
    transaction = _transaction(wire.transaction)
    if kind is Condemned:
        return Condemned(transaction, wire.reason)
    state: State = kind(transaction)
    return state


def _transaction(wire: _WireTransaction) -> Transaction:
    return Transaction(
        id=wire.id,
        manifest=Digest.parse_hex(wire.manifest),
        release=wire.release,
        counter=wire.counter,
        slot=wire.slot,
        images=wire.images,
        restages=wire.restages,
    )
