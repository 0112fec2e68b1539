"""The device as one value: its configuration, its ports, and what it remembers.

`open_device` joins the real ports; tests give their own. Nothing is decided here.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec

from slipstream.delta.errors import Busy, UsageError
from slipstream.delta.limits import (
    COUNTER_MAX,
    ROOT_BYTES_MAX,
    SECONDS_MAX,
    SIGNED_AHEAD_S_MAX,
    STATE_FILE_BYTES_MAX,
)
from slipstream.installer.boot.systemd_boot import SystemdBoot
from slipstream.installer.clock import SystemClock
from slipstream.installer.config import Config, PartitionPlace
from slipstream.installer.fetch import HttpFetcher
from slipstream.installer.journal import Journal
from slipstream.installer.metadata_store import FloorStore, MetadataStore, TimeStore, trusted_time
from slipstream.installer.ports import BootControl, Clock, Fetcher
from slipstream.installer.slots import Slots, make_folders
from slipstream.installer.state_file import state_fault

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RunningRelease(msgspec.Struct, frozen=True):
    """What the running release says of itself, in [release] file: what is left when state is lost."""

    product: str = ""
    release: str = ""
    counter: int = 0
    floor: Annotated[int, msgspec.Meta(ge=0, le=COUNTER_MAX)] = 0
    issued: Annotated[int, msgspec.Meta(ge=0, le=SECONDS_MAX)] = 0


@dataclass(slots=True)
class Device:
    """Everything that an operation on the device needs. Use as an async context manager."""

    config: Config
    clock: Clock
    fetcher: Fetcher
    boot: BootControl
    journal: Journal
    slots: Slots
    metadata: MetadataStore
    floors: FloorStore
    times: TimeStore
    running: RunningRelease
    boot_id: str
    notices: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the server; idempotent."""
        if isinstance(self.fetcher, HttpFetcher):
            await self.fetcher.close()

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.config.state

    def root(self) -> bytes:
        """The root metadata that the running image carries. Raises UsageError."""
        path = self.config.server.root
        try:
            with path.open("rb") as file:
                return file.read(ROOT_BYTES_MAX + 1)
        except OSError as error:
            raise UsageError(
                "server.root: the first trusted root cannot be read",
                where=f"{self.config.path}: {path}",
                got=error.strerror,
                hint="Copy the repository's 1.root.json there when the device is made",
            ) from error

    def now(self) -> datetime:
        """The time that signatures are judged by: it never runs behind what was signed."""
        built = datetime.fromtimestamp(self.running.issued, UTC)
        return trusted_time(self.clock.now(), self.times, built)

    def note_signed_time(self, moment: datetime) -> None:
        """A signed time is a floor for the clock: on a board without a battery it may be all there is.

        A clock that is kept right says how far a build machine's is ahead: then no more than
        SIGNED_AHEAD_S_MAX of it is taken, or signatures would end early here. Of that only whole
        days (UTC): it moves with the clock, and each change of it is written. Raises DeviceFault.
        """
        if self.clock.synchronised():
            latest = self.clock.now() + timedelta(seconds=SIGNED_AHEAD_S_MAX)
            if moment > latest:
                latest = latest.replace(hour=0, minute=0, second=0, microsecond=0)
                self.notices.append(
                    f"a release was signed for {moment:%Y-%m-%d %H:%M}Z, which is to come: the clock "
                    "of the machine that built it is ahead"
                )
                moment = latest
        self.times.raise_to(moment)

    def signed_time(self) -> datetime:
        """The latest time that was signed, or built into the running release: a clock that shows
        an earlier one is wrong.
        """
        built = datetime.fromtimestamp(self.running.issued, UTC)
        return trusted_time(built, self.times, built)

    def floor(self) -> int:
        """The lowest release counter that is accepted.

        With the stored floor lost it is what the running release says: its own floor, or else
        the counter of the booted entry. Never zero while something runs.
        """
        stored = self.floors.read()
        if stored is not None:
            return max(stored, self.running.floor)
        record = self.slots.record(self.boot.booted().slot or "")
        manifest = None if record.manifest is None else self.slots.manifest(record.manifest)
        known = [self.running.floor, 0 if manifest is None else manifest.floor]
        floor = max(known) or self.boot.booted().counter or 0
        if floor:
            self.notices.append(f"no stored floor: the running release's is taken ({floor})")
        return floor

    def place(self, slot: str, image: str) -> PartitionPlace | None:
        """Where a partition image stands in a slot; None if the slot has no such partition."""
        return self.config.slots[slot].partitions.get(image)

    def boot_file(self, slot: str, image: str) -> Path:
        """Where a boot file is kept: it is verified here before it goes to the ESP."""
        return self.state / "files" / slot / image

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the device for one installer. Raises Busy at once; the lock dies with the process."""
        path = self.state / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise state_fault(path, "opened", error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    "another installer is at work",
                    where=path,
                    got=_holder(descriptor),
                    hint="Wait for it to end",
                ) from None
            except OSError as error:
                raise state_fault(path, "locked", error) from error
            with suppress(OSError):  # who holds it is a courtesy to the next in line
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self.journal.reload()  # whoever held the lock before may have moved it
            yield
        finally:
            os.close(descriptor)


def open_device(
    config: Config,
    *,
    clock: Clock | None = None,
    fetcher: Fetcher | None = None,
    boot: BootControl | None = None,
    boot_id: str | None = None,
) -> Device:
    """The device of a configuration, on the real ports but where others are given. `boot_id` is another
    one after each start of the kernel.

    Makes the state folder. Raises DeviceFault.
    """
    make_folders(config.state)
    notices: list[str] = []
    clock = clock or SystemClock()
    fetcher = fetcher or HttpFetcher(config.server.url, clock=clock, ca_file=config.server.ca_file)
    boot = boot or SystemdBoot(
        config.boot.esp,
        cmdline=config.boot.cmdline,
        selected=config.boot.entry,
        tries=config.boot.tries,
        device=config.boot.esp_device,
        on_notice=notices.append,
    )
    return Device(
        config=config,
        clock=clock,
        fetcher=fetcher,
        boot=boot,
        journal=Journal(config.state, notices.append),
        slots=Slots(config.state, notices.append),
        metadata=MetadataStore(config.state / "metadata"),
        floors=FloorStore(config.state),
        times=TimeStore(config.state),
        running=_running_release(config.release_file, notices),
        boot_id=_boot_id() if boot_id is None else boot_id,
        notices=notices,
    )


def _holder(descriptor: int) -> str | None:
    try:
        number = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    except OSError:
        return None
    return f"process {number}" if number else None


def _boot_id() -> str:
    """What the kernel calls this boot (man proc); "" where it does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _running_release(path: Path, notices: list[str]) -> RunningRelease:
    try:
        with path.open("rb") as file:
            raw = file.read(STATE_FILE_BYTES_MAX)
        return msgspec.json.decode(raw, type=RunningRelease)
    except FileNotFoundError:
        return RunningRelease()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        notices.append(f"{path} says nothing of the running release: {error}")
        return RunningRelease()
