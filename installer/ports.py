"""The ports through which the device reaches the world: network, boot loader, slots, clock.

Protocols and the values that cross them; no behaviour. Each port has one real adapter or
more and one fake in the tests, and one conformance suite that runs on all of them.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.manifest import Place
from slipstream.installer.blocking import GoOn, unasked


class Clock(Protocol):
    """Time, as an argument to everything that needs it."""

    def now(self) -> datetime:
        """The wall clock in UTC, aware. It may be wrong: trusted time is the caller's matter."""
        ...

    def synchronised(self) -> bool:
        """Whether something keeps the wall clock right (NTP, PTP), by the kernel's word."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable."""
        ...


class Fetcher(Protocol):
    """The repository's public/ folder, however far away.

    Paths are relative to its root: "metadata/timestamp.json", "blobs/<digest>.payload".
    """

    async def fetch(self, path: str, *, size_max: int, size: int | None = None) -> bytes:
        """A whole small file of at most `size_max` bytes, of exactly `size` where it is known.

        Raises Unavailable, and its subclasses NotFound for 404 and 403, Unusable for a file that
        stays of another size or changes each time.
        """
        ...

    async def probe(self, path: str, *, size: int, at: int = 0) -> None:
        """See that the file is there, of `size` bytes, by the one byte at `at`. Raises as fetch."""
        ...

    def stream(self, path: str, rng: ByteRange) -> AsyncIterator[bytes]:
        """The bytes of a range in order, in pieces of any size, all of them or Unavailable.

        Reconnects and resumes by itself within its budget of retries.
        """
        ...


class EntryState(StrEnum):
    """What the name of a boot entry says about its release."""

    GOOD = "good"
    TRIAL = "trial"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One visible boot entry. `name` is its file name; `tries_left` is None once it is good."""

    slot: str
    counter: int
    state: EntryState
    tries_left: int | None
    tries_done: int
    name: str


@dataclass(frozen=True, slots=True)
class Booted:
    """What runs now: from the kernel command line and the boot loader's own word.

    `root` is the value of roothash= or usrhash=. None where nothing says so.
    """

    slot: str | None
    counter: int | None
    root: Digest | None


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a boot entry is made of: verified files on the state partition, by place."""

    title: str
    version: str
    options: str
    files: Mapping[Place, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counted:
    """Whether the boot loader counted the start of what runs now.

    `moved`: the entry's name has one try less than before. False: it has the same name. None: it
    has no tries, or cannot be compared (it was confirmed since, say). `loader` says which boot
    loader and firmware it was, in their own words.
    """

    moved: bool | None
    loader: str


class BootControl(Protocol):
    """The boot loader. Every method is idempotent: after a power cut it is called again.

    Raises DeviceFault with what to do about it.
    """

    def check(self, slot: str, boot_bytes: int) -> None:
        """Preflight, before anything is touched or fetched: DeviceFault if a switch to `slot`,
        with boot files of `boot_bytes` together, could not work.
        """
        ...

    def entries(self) -> tuple[BootEntry, ...]:
        """All visible entries of Slipstream, from disk."""
        ...

    def booted(self) -> Booted:
        """What runs now."""
        ...

    def entry_file(self, slot: str, counter: int, place: Place) -> Path | None:
        """The file that the visible entry of a release boots from; None where it has none such.

        For reading only.
        """
        ...

    def alternatives(self, slot: str) -> tuple[str, ...]:
        """Names of the entries, of Slipstream or not, that would be started if those of `slot` had no
        tries left: whole, and with tries of their own or none to use up.
        """
        ...

    def counted(self) -> Counted:
        """Whether the boot loader counted this start: the board's proof that a trial can end."""
        ...

    def retire(self, slot: str) -> None:
        """Remove the entry and boot files of a slot, hidden leftovers too. Not the booted slot."""
        ...

    def stage(self, slot: str, counter: int, boot: BootFiles, go_on: GoOn = unasked) -> None:
        """Put everything that the entry needs in place: hidden, durable, read back.

        Takes long on a slow boot partition: called in a thread, it asks `go_on` now and then, and
        lets what that raises through. Called again it goes on.
        """
        ...

    def publish(self, slot: str, counter: int) -> None:
        """The one rename that makes the staged entry visible: the commit point."""
        ...

    def reclaim(self, slot: str, counter: int, boot: BootFiles) -> None:
        """Give a published entry its name back, where a cut left another one of the same bytes.
        It is on trial then, with tries left. Nothing to do is fine.
        """
        ...

    def confirm(self, slot: str, counter: int) -> None:
        """TRIAL to GOOD."""
        ...

    def condemn(self, slot: str, counter: int) -> None:
        """To BAD: not chosen while another entry is good."""
        ...


class SlotTarget(Protocol):
    """One image's place in a slot: a partition, a region of a file, or a boot file.

    Not thread-safe for writes; reads may run beside one writer. Raises DeviceFault.
    """

    @property
    def name(self) -> str:
        """Slot and image, for messages: "b/rootfs"."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the place can hold."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> int:
        """Make the bytes at `offset` equal `data`; only blocks that differ are written.

        Returns the number of bytes written.
        """
        ...

    def sync(self) -> None:
        """All that was written is durable when this returns."""
        ...

    def read_back(self, size: int) -> Iterator[bytes]:
        """The first `size` bytes in order, from the medium rather than the page cache."""
        ...

    def close(self) -> None:
        """Give the place back; idempotent."""
        ...
