"""What the device trusted last, durable: metadata, the release floor, the latest signed time.

Whoever can write here can do no more than deny service: metadata is verified again under the
embedded root whenever it is read, and is only a floor. A file that is lost or torn is read as
None; the caller says so and falls back to what the running release knows, never to zero.

    root.json timestamp.json snapshot.json targets.json <role>.json     as trusted last
    root_history/<N>.root.json                                          the chain of roots
    floor.0 floor.1 time.0 time.1                                       two copies of one number
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from slipstream.delta.durable import remove_durably, sync_folder, write_durably
from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import COUNTER_MAX, SECONDS_MAX, TARGETS_BYTES_MAX

_NAME_CHARS_MAX = 200  # of a quoted role name; file systems end at 255 bytes


class MetadataStore:
    """Metadata files below one folder, under unversioned names. Writes raise DeviceFault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, role: str) -> bytes | None:
        """What was stored for the role; None where there is nothing readable."""
        return _read(self._path(role))

    def write(self, role: str, raw: bytes) -> None:
        """Replace the role's file durably."""
        with _device_fault(self.folder):
            _make_folder(self.folder)
            write_durably(self._path(role), raw)

    def remove(self, role: str) -> None:
        """Forget the role; one that is not there is fine."""
        path = self._path(role)
        with _device_fault(path):
            if path.exists():
                remove_durably(path)

    def read_root(self, version: int) -> bytes | None:
        """The root of that version from the history, if it is there."""
        return _read(self.folder / "root_history" / f"{version}.root.json")

    def write_root(self, version: int, raw: bytes) -> None:
        """Add a verified root to the history."""
        folder = self.folder / "root_history"
        with _device_fault(folder):
            _make_folder(folder)
            write_durably(folder / f"{version}.root.json", raw)

    def _path(self, role: str) -> Path:
        # Role names are the publisher's words: "../x" must stay inside (CVE-2021-41131), and a
        # name beyond the file system's limit must not be a fault of the device.
        name = quote(role, safe="")
        if len(name) > _NAME_CHARS_MAX:
            name = f"{name[:100]}%{hashlib.sha256(role.encode()).hexdigest()}"
        return self.folder / f"{name}.json"


class _TwoCopies:
    """One number that never goes down, in two files, so that a torn write costs neither.

    A copy is 24 bytes, little-endian: 4 bytes of kind, u64 sequence, u64 value, u32 CRC-32 of
    what precedes it. The valid copy with the higher sequence is the value. The older copy is
    replaced first, each durably, so at every moment one copy is whole and not older than what was
    last returned from raise_to.
    """

    _BODY = struct.Struct("<4sQQ")
    _CHECK = struct.Struct("<I")

    def __init__(self, folder: Path, name: str, kind: bytes, value_max: int) -> None:
        self._paths = (folder / f"{name}.0", folder / f"{name}.1")
        self._kind = kind
        self._value_max = value_max

    def read(self) -> int | None:
        """The value; None if no copy is valid. A missing or torn copy is repaired on the way."""
        copies = [self._parse(_read(path)) for path in self._paths]
        best = max((copy for copy in copies if copy is not None), default=None)
        if best is None:
            return None
        for path, copy in zip(self._paths, copies, strict=True):
            if copy != best:
                # Best effort: a read-only state folder must not keep the device from reading.
                with suppress(OSError):
                    write_durably(path, self._dump(*best))
        return best[1]

    def raise_to(self, value: int) -> None:
        """Raise the value durably; a lower or equal one changes nothing. DeviceFault."""
        if not 0 <= value <= self._value_max:
            raise ValueError(f"{value} is out of 0..{self._value_max}")
        copies = [self._parse(_read(path)) for path in self._paths]
        best = max((copy for copy in copies if copy is not None), default=None)
        if best is not None and value <= best[1]:
            self.read()  # repairs
            return
        new = (1 if best is None else best[0] + 1, value)
        older_first = sorted((0, 1), key=lambda index: copies[index] or (0, 0))
        with _device_fault(self._paths[0].parent):
            _make_folder(self._paths[0].parent)
            for index in older_first:
                write_durably(self._paths[index], self._dump(*new))

    def _dump(self, sequence: int, value: int) -> bytes:
        body = self._BODY.pack(self._kind, sequence, value)
        return body + self._CHECK.pack(zlib.crc32(body))

    def _parse(self, raw: bytes | None) -> tuple[int, int] | None:
        if raw is None or len(raw) != self._BODY.size + self._CHECK.size:
            return None
        body = raw[: self._BODY.size]
        kind, sequence, value = self._BODY.unpack(body)
        (check,) = self._CHECK.unpack(raw[self._BODY.size :])
        if check != zlib.crc32(body) or kind != self._kind or value > self._value_max:
            return None
        return sequence, value


class FloorStore:
    """The lowest release counter that the device accepts; files floor.0 and floor.1.

    read() is None when both copies are lost: the floor is then the running release's own, and
    the loss is reported.
    """

    def __init__(self, folder: Path) -> None:
        self._number = _TwoCopies(folder, "floor", b"SLFL", COUNTER_MAX)

    def read(self) -> int | None:
        return self._number.read()

    def raise_to(self, counter: int) -> None:
        """Raise the floor; never lowers it. DeviceFault if it cannot be made durable."""
        self._number.raise_to(counter)


class TimeStore:
    """The latest time that the publisher's offline keys signed; files time.0 and time.1.

    The device's own clock raises nothing: one that once stood in 2106 would expire everything for
    ever. Where it is kept right it limits: of a signed time far ahead of it goes in the begin of
    the clock's next day.
    """

    def __init__(self, folder: Path) -> None:
        self._number = _TwoCopies(folder, "time", b"SLTM", SECONDS_MAX)

    def read(self) -> datetime | None:
        seconds = self._number.read()
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    def raise_to(self, moment: datetime) -> None:
        """Raise the latest signed time, in whole seconds; never lowers it. DeviceFault."""
        self._number.raise_to(int(moment.timestamp()))


def trusted_time(clock_now: datetime, times: TimeStore, build_time: datetime) -> datetime:
    """The time that a refresh is judged by: it never runs behind what was signed.

    The latest of the clock (1970 on a board without a battery), the latest signed time seen, and
    the build time of the running release. A slow clock can hide that metadata has expired; it can
    never make an older release acceptable: that is the floor's and the versions' matter.
    """
    return max(clock_now, build_time, times.read() or build_time)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            raw = file.read(TARGETS_BYTES_MAX + 1)
    except OSError:
        return None
    return raw if len(raw) <= TARGETS_BYTES_MAX else None


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def _device_fault(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeviceFault(
            "cannot store trusted state",
            where=where,
            got=os.strerror(error.errno) if error.errno else str(error),
            hint="Check the space and the health of the state partition",
        ) from error
