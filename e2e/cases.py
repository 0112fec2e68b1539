"""What is proved, one function a case. Each gets a folder for what it leaves behind, and returns facts.

A case that does not raise has passed. The waits say what must happen, in order; the checks behind
them what must be true then. A case begins with a device as it left the factory: release 1 in slot
a, nothing in slot b; release 2 is offered as soon as it is switched on.
"""

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from e2e.disk import offset_of, overwrite
from e2e.guest import Guest
from e2e.guest_agent import run_in_guest
from e2e.memory import peak_memory, resident_memory
from e2e.releases import (
    FULL,
    GOOD,
    HANG,
    PANIC,
    UNHEALTHY,
    UNSIGNED,
    Published,
    Say,
    Variant,
    publish_variant,
)
from e2e.story import STEP_S, Story, Wrong, device_with
from e2e.write_log import windows_of

TRIES = 3
# Measured 75 kB; in full it is 75 MB.
DELTA_BYTES_MAX = 200_000
INSTALLED = "is installed in slot b"
# The parts of an update lie between these words of the serial log: chunks are written; the commit,
# the reboot and the firmware's own rename; the trial.
MARKS = (
    "reading signed metadata",
    "staging the boot files",
    "e2e-initrd: root [0-9a-f]{64} on /dev/vda4",
    "release 2 is confirmed",
)
PARTS_S = (50.0, 35.0, 35.0)  # of wall clock, where no update of this run says it
FAILED_HERE = "2 failed on this device; waiting for a newer release"
ALREADY = "already on 2"
# squashfs keeps its superblock first: damaged behind it, the image still opens and mounts.
CORRUPT_FROM, CORRUPT_BYTES = 1_048_576, 40 * 1_048_576
# systemd-boot's word, and the firmware's.
REFUSED = r"(?i)access denied|security violation"
IDLE_MIB_MAX, INSTALLING_MIB_MAX = 48, 96
ENTRY_NAMES = {"commit": "0002b+3-0.efi", "first try": "0002b+2-1.efi", "confirm": "0002b.efi"}
# What the adapter says where a rename is not one sector's write, or cannot know.
NOT_ONE_SECTOR = "cannot stand in one sector|no way is made for|are not looked at"


@dataclass(slots=True)
class Lab:
    """What all cases of a run share."""

    cache: Path
    guest: Guest
    say: Say
    seed: int
    cuts: int
    cuts_an_update: int
    parts_s: tuple[float, ...] = PARTS_S  # of the last update that was not cut

    def published(self, variant: Variant) -> Published:
        """The repository of a variant of release 2."""
        return publish_variant(self.cache, self.guest, variant, self.say)


Case = Callable[[Lab, Path], dict[str, Any]]


def full_install(lab: Lab, folder: Path) -> dict[str, Any]:
    """A release without a delta goes into the empty slot, boots, proves itself, is confirmed."""
    with device_with(folder, lab.guest, lab.published(FULL)) as story:
        _update(story)
        _check_confirmed(story)
        _check_idle(story)
        return story.facts


def delta_update(lab: Lab, folder: Path) -> dict[str, Any]:
    """The same by delta: little is fetched, the root file system packed again on the device."""
    with device_with(folder, lab.guest, lab.published(GOOD)) as story:
        lab.parts_s = _update(story)
        _check_confirmed(story)
        served = story.facts["bytes_served"]
        if served > DELTA_BYTES_MAX:
            raise Wrong("more was fetched than a delta", expected=DELTA_BYTES_MAX, got=served)
        _check_idle(story)
        _check_boot_partition(story)
        return story.facts


def unhealthy(lab: Lab, folder: Path) -> dict[str, Any]:
    """A release whose health check fails: given up at once, with the check's own words."""
    with device_with(folder, lab.guest, lab.published(UNHEALTHY)) as story:
        _fall_back(story, slots="aba", reason="cannot read /etc/gateway/upstream.conf")
        return story.facts


def panic(lab: Lab, folder: Path) -> dict[str, Any]:
    """A release whose kernel panics: three tries, then the old one."""
    with device_with(folder, lab.guest, lab.published(PANIC)) as story:
        _fall_back(story, slots="a" + TRIES * "b" + "a", reason="never reached its health check")
        story.check(
            "kernel panics", TRIES, story.machine.log_since().count("sysrq triggered crash")
        )
        return story.facts


def hang(lab: Lab, folder: Path) -> dict[str, Any]:
    """A release whose service manager freezes: the hardware watchdog resets it, three times."""
    with device_with(folder, lab.guest, lab.published(HANG)) as story:
        _fall_back(story, slots="a" + TRIES * "b" + "a", reason="never reached its health check")
        story.check("watchdog resets", TRIES, story.machine.event_names().count("WATCHDOG"))
        return story.facts


def corrupted_root(lab: Lab, folder: Path) -> dict[str, Any]:
    """The slot's bytes change after it was read back: dm-verity panics, three tries, the old one."""
    with device_with(folder, lab.guest, lab.published(GOOD)) as story:
        story.power_on()
        _wait_committed(story)
        story.machine.cut_power("to damage slot b")
        overwrite(story.machine.disk, offset_of("rootfs-b") + CORRUPT_FROM, CORRUPT_BYTES)
        story.power_on()
        _wait_fallen_back(
            story, slots="a" + TRIES * "b" + "a", reason="never reached its health check"
        )
        story.facts["verity_panics"] = story.machine.log_since().count("dm-verity device corrupted")
        story.check("panics of dm-verity", TRIES, story.facts["verity_panics"])
        return story.facts


def power_cuts(lab: Lab, folder: Path) -> dict[str, Any]:
    """The power is cut at random moments of an update: old or new boots, and it completes."""
    chance = random.Random(lab.seed)
    # The parts in turn: three cuts in one trial would use up its tries.
    moments = [(number % len(PARTS_S), chance.random()) for number in range(lab.cuts)]
    cuts: list[dict[str, Any]] = []
    while len(cuts) < lab.cuts:
        mine = moments[len(cuts) :][: lab.cuts_an_update]
        with device_with(folder / f"from-{len(cuts) + 1}", lab.guest, lab.published(GOOD)) as story:
            cuts += _update_through_cuts(story, mine, lab)
    return {"seed": lab.seed, "cuts": cuts}


def secure_boot(lab: Lab, folder: Path) -> dict[str, Any]:
    """With Secure Boot and the owner's keys: enrolled on the first start, then the delta update."""
    with device_with(folder, lab.guest, lab.published(GOOD), secure=True) as story:
        _update(story)
        _check_confirmed(story)
        _check_secure(story)
        return story.facts


def unsigned_uki(lab: Lab, folder: Path) -> dict[str, Any]:
    """With Secure Boot, a release whose UKI is not signed: refused by the firmware, reported.

    systemd-boot 252 returns to the firmware then, which waits for a key; somebody switches the
    device off and on. Each start has used up a try.
    """
    with device_with(folder, lab.guest, lab.published(UNSIGNED), secure=True) as story:
        story.power_on()
        _wait_committed(story)
        for _ in range(TRIES):
            offset = story.machine.log_end()
            story.machine.wait_for(REFUSED, STEP_S, since=offset)
            story.machine.cut_power("the firmware refused the UKI")
            story.power_on()
        _wait_fallen_back(story, slots="aa", reason="never reached its health check")
        _check_secure(story)
        return story.facts


def write_order(lab: Lab, folder: Path) -> dict[str, Any]:
    """What reaches the disk, between which flushes, when a release is committed and confirmed."""
    log = folder / "writes.log"
    with device_with(folder, lab.guest, lab.published(GOOD), write_log=log) as story:
        _update(story)
        story.wait_idle(ALREADY, story.machine.log_end())  # past the confirmation's own flush
    found = windows_of(log, folder / "factory.raw", ENTRY_NAMES)
    story.facts |= {name: window.describe() for name, window in found.items()}
    story.check("names that came", set(ENTRY_NAMES), set(found))
    for name in ("commit", "confirm"):
        # One sector of the boot partition is the commit: it is there or not. And no part of the
        # release may be under way beside it. ext4 writes its journal when it likes.
        changed = {place: len(all_) for place, all_ in found[name].changed.items()}
        changed.pop("state", None)
        story.check(
            f"sectors that change between the flushes around the {name}", {"esp": 1}, changed
        )
    log.unlink()
    return story.facts


# --- steps


def _update(story: Story) -> tuple[float, ...]:
    """From power on to the report of the confirmed boot; the seconds of each part (MARKS)."""
    offset = story.power_on()
    story.check("the first start", "a", story.wait_boot(offset).slot)
    story.machine.wait_for(MARKS[0], STEP_S, since=offset)
    times = [time.monotonic()]
    peak = peak_memory(story, until=MARKS[1], since=offset)
    times.append(time.monotonic())
    peak = max(peak, peak_memory(story, until=INSTALLED, since=offset))
    story.check_memory("installing_mib", peak, INSTALLING_MIB_MAX)
    report = story.wait_report("installed")
    story.check("where it runs while it installs", story.published.root(1), report["booted_root"])
    story.facts["bytes_served"] = story.fleet.bytes_served()
    story.machine.wait_for(MARKS[2], STEP_S, since=offset)
    times.append(time.monotonic())
    report = story.wait_report("confirmed")
    times.append(time.monotonic())
    story.check("the booted root hash", story.published.root(2), report["booted_root"])
    story.check("the slots that booted", "ab", story.slots())
    parts = tuple(round(end - begin, 1) for begin, end in pairwise(times))
    story.facts["parts_s"] = parts
    return parts


def _check_idle(story: Story) -> None:
    """The agent waits for the next poll, in a process that has installed nothing."""
    story.check_memory("idle_mib", resident_memory(story), IDLE_MIB_MAX)


def _check_boot_partition(story: Story) -> None:
    """The doctor finds nothing after an update, and no rename touched more than one sector."""
    run_in_guest(story.machine, ["/usr/bin/systemctl", "stop", "slipstream.service"])  # its notes
    words = ["/usr/bin/slipstream", "device", "doctor", "--json"]
    check_up = json.loads(run_in_guest(story.machine, words, 2 * STEP_S))
    story.check("what the doctor finds", [], check_up["findings"])
    story.facts["doctor"] = "; ".join(check_up["looked_at"])
    if found := re.search(f".*({NOT_ONE_SECTOR}).*", story.machine.log_since()):
        raise Wrong("a rename of more than one sector", where=story.machine.serial, got=found[0])


def _check_confirmed(story: Story) -> None:
    """What the guest itself says, once release 2 is confirmed."""
    story.wait_idle(ALREADY, story.machine.log_end())
    names = run_in_guest(story.machine, ["/usr/bin/ls", "/efi/EFI/Linux"]).split()
    story.check("boot entries", ["0001a.efi", "0002b.efi"], sorted(names))
    verity = run_in_guest(story.machine, ["/usr/sbin/veritysetup", "status", "root"])
    story.check("dm-verity's state", "verified", _word(r"status:\s+(\S+)", verity))
    story.check("dm-verity's root", story.published.root(2), _word(r"root hash:\s+(\S+)", verity))
    state = run_in_guest(story.machine, ["/usr/bin/systemctl", "is-active", "slipstream.service"])
    story.check("the agent", "active", state.strip())


def _fall_back(story: Story, *, slots: str, reason: str) -> None:
    """A release that fails from its first start on, up to where the device refuses it."""
    offset = story.power_on()
    story.check("the first start", "a", story.wait_boot(offset).slot)
    story.timed("install_s", lambda: story.wait_report("installed"))
    _wait_fallen_back(story, slots=slots, reason=reason)


def _wait_fallen_back(story: Story, *, slots: str, reason: str) -> None:
    """The fall back is reported, for this reason, after these starts; the release is not taken again."""
    report = story.timed("trials_s", lambda: story.wait_report("fell_back", deadline_s=2 * STEP_S))
    story.facts["reason"] = report["reason"]
    if reason not in report["reason"]:
        raise Wrong("the reason of the fall back", expected=reason, got=report["reason"])
    story.check("where it runs after the fall back", story.published.root(1), report["booted_root"])
    # Twice: what the server answers, and that it stays so.
    for _ in range(2):
        story.wait_idle(FAILED_HERE, story.machine.log_end())
    story.check("the slots that booted", slots, story.slots())
    kinds = [one["kind"] for one in story.fleet.reports() if one["release"] == "2"]
    story.check("reports", ["installed", "fell_back"], kinds)


def _wait_committed(story: Story) -> None:
    """Release 1 has booted and committed release 2; the reboot is about to come."""
    story.wait_report("installed")


def _update_through_cuts(
    story: Story, moments: Sequence[tuple[int, float]], lab: Lab
) -> list[dict[str, Any]]:
    """One update and its power cuts, each by the part of the update that it falls into, and the
    share of that part that has passed.

    For each cut: the last words before it, the slots that had booted, and what booted after it.
    """
    cuts: list[dict[str, Any]] = []
    offset = story.power_on()
    for part, share in moments:
        story.machine.wait_for(MARKS[part], STEP_S, since=offset)
        story.let_run(share * lab.parts_s[part], until=MARKS[part + 1], since=offset)
        last = story.machine.log_since().strip().splitlines()[-1]
        before = story.slots()
        story.machine.cut_power()
        offset = story.power_on()
        boot = story.wait_boot(offset)
        cuts.append({"part": part, "after": last[-100:], "before": before, "then": boot.slot})
        lab.say(f"  {cuts[-1]}")
    story.wait_report("confirmed")
    story.wait_idle(ALREADY, offset)
    for boot in story.boots():
        release = {"a": 1, "b": 2}[boot.slot]
        story.check(f"the root hash of slot {boot.slot}", story.published.root(release), boot.root)
    story.check("where it ended", "b", story.slots()[-1])
    cuts[-1]["slots"] = story.slots()
    return cuts


def _check_secure(story: Story) -> None:
    """The kernel itself says that Secure Boot is on."""
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    raw = run_in_guest(story.machine, ["/usr/bin/od", "-An", "-tu1", variable])
    story.check("the variable SecureBoot", "1", raw.split()[-1])


def _word(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return None if found is None else found[1]


# In the order in which they are run. The subset is what every change must pass; corrupted_root has
# the kernel panics of `panic` in it.
CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        full_install,
        delta_update,
        unhealthy,
        panic,
        power_cuts,
        secure_boot,
        unsigned_uki,
        hang,
        corrupted_root,
        write_order,
    )
}
SUBSET = (
    "delta_update",
    "unhealthy",
    "power_cuts",
    "unsigned_uki",
    "corrupted_root",
)
# How many power cuts, and in how many to an update.
CUTS_SUBSET, CUTS_FULL = (3, 3), (20, 1)
