"""The audit log's chain: each row is sealed with the digest of the row before it. Pure.

Whoever changes, removes or moves a row has to seal all rows behind it again, and the newest digest
is then another: who notes it elsewhere from time to time (GET /api/v1/audit/verify names it) can
tell.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

START: Final = bytes(32)  # what the first row follows


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. `before` and `after` are JSON texts, "" where there was nothing."""

    id: int  # 1, 2, 3
    at: int  # seconds since 1970
    actor: str
    act: str
    object: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry as it is kept."""

    entry: Entry
    previous: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The first row at which the chain does not hold."""

    row: int
    reason: str


def seal(previous: bytes, entry: Entry) -> Sealed:
    """SHA-256 over the digest before and the entry's fields as a JSON list: no two read alike."""
    fields = [
        entry.id,
        entry.at,
        entry.actor,
        entry.act,
        entry.object,
        entry.before,
        entry.after,
    ]
    return Sealed(entry, previous, hashlib.sha256(previous + msgspec.json.encode(fields)).digest())


@dataclass
class Verifier:
    """Checks a chain row by row; feed it all rows by id, then ask for the end."""

    rows: int = 0
    digest: bytes = START
    broken: Broken | None = None

    def feed(self, rows: Iterable[Sealed]) -> None:
        for row in rows:
            if self.broken is not None:
                return
            self._check(row)

    def finish(self, rows: int, digest: bytes) -> Broken | None:
        """What is wrong, if anything; `rows` and `digest` are what the head says."""
        if self.broken is None and (self.rows, self.digest) != (rows, digest):
            self.broken = Broken(self.rows + 1, f"the log ends here; its head counts {rows} rows")
        return self.broken

    def _check(self, row: Sealed) -> None:
        wanted = self.rows + 1
        if row.entry.id != wanted:
            self.broken = Broken(wanted, f"row {wanted} is missing; row {row.entry.id} follows")
        elif row.previous != self.digest:
            self.broken = Broken(wanted, "it does not follow the row before it")
        elif seal(row.previous, row.entry).digest != row.digest:
            self.broken = Broken(wanted, "it is not what was sealed")
        else:
            self.rows, self.digest = wanted, row.digest
