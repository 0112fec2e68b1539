"""One device on its way through an update: its machine, its server, and what can be waited for.

What happened is read from the server's reports and from the serial log; a step that does not come
within its deadline ends the case. Deadlines are wide: they are for what never comes, not for what
is slow (TCG on a busy machine).
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.disk import MIB, make_disk
from e2e.firmware import make_firmware
from e2e.fleet import DEVICE, Fleet
from e2e.guest import PRODUCT, Guest
from e2e.machine import Machine, TimedOut
from e2e.releases import Published
from slipstream.delta.errors import SlipstreamError

BOOT_S = 300.0  # from power on to the initrd's word
STEP_S = 600.0  # one step of an update
ROOT_OPENED = r"e2e-initrd: root ([0-9a-f]{64}) on (/dev/vda\d+)"
# The partitions of disk.py, as Linux numbers them.
SLOT_OF_DEVICE = {"/dev/vda2": "a", "/dev/vda4": "b"}
CONFIG = """\
[device]
id = "{device}"
product = "{product}"
hardware = "x86_64"

[server]
url = "http://10.0.2.2:{port}"
root = "root.json"
token_file = "token"

[slots.a]
rootfs = "/dev/vda2"
rootfs-verity = "/dev/vda3"

[slots.b]
rootfs = "/dev/vda4"
rootfs-verity = "/dev/vda5"

[boot]
esp = "/efi"

[install]
verity = "partition"
identity = "gpt"

[[health]]
name = "gateway"
command = ["/usr/lib/gateway/gateway"]
timeout_s = 60
"""


class Wrong(SlipstreamError):
    """Something happened that must not."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A start that came as far as the initrd: which slot, by which root hash in hex."""

    slot: str
    root: str


@dataclass(slots=True)
class Story:
    """A device with release 1 in slot a, and a server that offers what `published` holds.

    `facts` is what the case found out besides that it passed; it ends up in the results.
    """

    machine: Machine
    fleet: Fleet
    published: Published
    facts: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def power_on(self) -> int:
        """Switch it on; returns the end of the serial log before that."""
        offset = self.machine.log_end()
        self.machine.power_on()
        return offset

    def wait_boot(self, since: int, deadline_s: float = BOOT_S) -> Boot:
        """The first start after `since` that opens its root file system."""
        found = self.machine.wait_for(
            ROOT_OPENED, deadline_s, since=since, unless="Attempted to kill init"
        )
        boots = self.boots(since)
        self.machine.mark(f"booted slot {boots[0].slot} ({found[1][:8]})")
        return boots[0]

    def boots(self, since: int = 0) -> list[Boot]:
        """All starts in the serial log so far that opened their root file system."""
        text = self.machine.log_since(since)
        return [
            Boot(SLOT_OF_DEVICE.get(found[2], found[2]), found[1])
            for found in re.finditer(ROOT_OPENED, text)
        ]

    def slots(self) -> str:
        """The slots that booted so far, one letter a start."""
        return "".join(boot.slot for boot in self.boots())

    def wait_report(
        self, kind: str, release: str = "2", deadline_s: float = STEP_S
    ) -> dict[str, Any]:
        """The first report of that kind about a release. Raises TimedOut; Wrong for a bad end."""
        end_kinds = {"confirmed", "fell_back"} - {kind}
        for _ in self.machine.until(deadline_s, f"a report of {kind} for release {release}"):
            reports = [one for one in self.fleet.reports() if one["release"] == release]
            for report in reports:
                if report["kind"] == kind:
                    return report
                if report["kind"] in end_kinds:
                    raise Wrong(
                        "the update ended otherwise",
                        expected=kind,
                        got=f"{report['kind']}: {report['reason']}",
                    )
        raise AssertionError("until() raises before it ends")

    def wait_idle(self, words: str, since: int, deadline_s: float = STEP_S) -> None:
        """The agent says these words, for example what the server answered."""
        self.machine.wait_for(re.escape(words), deadline_s, since=since)

    def check(self, what: str, expected: object, got: object) -> None:
        """Both are equal. Raises Wrong."""
        if expected != got:
            raise Wrong(what, expected=expected, got=got)

    def check_memory(self, name: str, size: int, limit_mib: int) -> None:
        """Bytes resident, as a fact in MiB, are at most so many MiB. Raises Wrong, for no sample too."""
        self.facts[name] = round(size / MIB, 1)
        if not 0 < size <= limit_mib * MIB:
            raise Wrong(name, expected=f"at most {limit_mib}", got=self.facts[name])

    def let_run(self, seconds: float, *, until: str, since: int) -> None:
        """Wait so long while it runs, but not past these words of the log. Raises TimedOut."""
        end = time.monotonic() + seconds
        for _ in self.machine.until(seconds + STEP_S, "time to pass"):
            if time.monotonic() >= end or re.search(until, self.machine.log_since(since)):
                return

    def timed(self, name: str, run: Callable[[], Any]) -> Any:
        """What `run` returns; its seconds become a fact."""
        began = time.monotonic()
        result = run()
        self.facts[name] = round(time.monotonic() - began, 1)
        return result


@contextmanager
def device_with(
    folder: Path,
    guest: Guest,
    published: Published,
    *,
    secure: bool = False,
    write_log: Path | None = None,
) -> Iterator[Story]:
    """A factory-new device that is off, and its server, which runs; both end with the context."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(folder))
        fleet.start(published.repo)
        root = published.repo / "public/metadata/1.root.json"
        config = CONFIG.format(device=DEVICE, product=PRODUCT, port=fleet.port)
        state = {
            "etc/device.toml": config.encode(),
            "etc/token": f"{fleet.token}\n".encode(),
            "etc/root.json": root.read_bytes(),
        }
        disk = make_disk(folder, published, guest.rootfs(1), state, enrol_keys=secure)
        machine = Machine(folder, disk, make_firmware(folder, secure=secure), write_log)
        yield Story(stack.enter_context(machine), fleet, published)


__all__ = ["Boot", "Story", "TimedOut", "Wrong", "device_with"]
