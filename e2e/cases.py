"""What is proved, one function a case. Each gets a folder for what it leaves behind, and returns facts.

A case that does not raise has passed. The waits say what must happen, in order; the checks behind
them what must be true then. A case begins with a device as it left the factory: release 1 in slot
a, nothing in slot b; release 2 is offered as soon as it is switched on.
"""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.disk import offset_of, overwrite
from e2e.guest import Guest
from e2e.guest_agent import run_in_guest
from e2e.memory import sample_memory
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

TRIES = 3
# Measured 17.5 MB, nearly all of it the UKI in full: a device that never installed anything has no
# record of the UKI that it came with, and no copy to start from. In full it is 75 MB.
DELTA_BYTES_MAX = 20_000_000
FAILED_HERE = "2 failed on this device; waiting for a newer release"
ALREADY = "already on 2"
# squashfs keeps its superblock first: damaged behind it, the image still opens and mounts.
CORRUPT_FROM, CORRUPT_BYTES = 1_048_576, 40 * 1_048_576
# systemd-boot's word, and the firmware's.
REFUSED = r"(?i)access denied|security violation"
MIB = 1024 * 1024
INSTALLING_MIB_MAX = 96


@dataclass(slots=True)
class Lab:
    """What all cases of a run share."""

    cache: Path
    guest: Guest
    say: Say
    seed: int
    cuts: int
    # Seconds from the agent's first word to the report of the confirmed boot; measured once.
    update_s: float | None = field(default=None)

    def published(self, variant: Variant) -> Published:
        """The repository of a variant of release 2."""
        return publish_variant(self.cache, self.guest, variant, self.say)


Case = Callable[[Lab, Path], dict[str, Any]]


def full_install(lab: Lab, folder: Path) -> dict[str, Any]:
    """A release without a delta goes into the empty slot, boots, proves itself, is confirmed."""
    with device_with(folder, lab.guest, lab.published(FULL)) as story:
        _update(story)
        _check_confirmed(story)
        return story.facts


def delta_update(lab: Lab, folder: Path) -> dict[str, Any]:
    """The same by delta: little is fetched, the root file system packed again on the device."""
    with device_with(folder, lab.guest, lab.published(GOOD)) as story:
        lab.update_s = _update(story)
        _check_confirmed(story)
        served = story.facts["bytes_served"]
        if served > DELTA_BYTES_MAX:
            raise Wrong("more was fetched than a delta", expected=DELTA_BYTES_MAX, got=served)
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
    cuts = []
    for number in range(1, lab.cuts + 1):
        with device_with(folder / f"cut-{number}", lab.guest, lab.published(GOOD)) as story:
            if lab.update_s is None:
                raise Wrong("nothing says how long an update takes", expected="delta_update first")
            share = chance.random()
            cuts.append(_cut_once(story, share * lab.update_s))
            lab.say(f"  cut {number} of {lab.cuts}: {cuts[-1]}")
    return {"seed": lab.seed, "update_s": lab.update_s, "cuts": cuts}


def secure_boot(lab: Lab, folder: Path) -> dict[str, Any]:
    """With Secure Boot and the owner's keys: enrolled on the first start, then the delta update."""
    with device_with(folder, lab.guest, lab.published(GOOD), secure=True) as story:
        update_s = _update(story)
        lab.update_s = lab.update_s or update_s
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


def memory(lab: Lab, folder: Path) -> dict[str, Any]:
    """Resident memory of the agent: while it installs in full, and when it has nothing to do."""
    with device_with(folder, lab.guest, lab.published(FULL)) as story:
        offset = story.power_on()
        story.machine.wait_for("reading signed metadata", STEP_S, since=offset)
        peak = sample_memory(story, while_not="is installed in slot b")
        story.facts["installing_mib"] = round(peak / MIB, 1)
        story.wait_report("confirmed")
        story.wait_idle(ALREADY, story.machine.log_end())
        idle = sample_memory(story)
        story.facts["idle_mib"] = round(idle / MIB, 1)
        if peak > INSTALLING_MIB_MAX * MIB:
            raise Wrong("the installer takes too much", expected=INSTALLING_MIB_MAX, got=peak / MIB)
        return story.facts


# --- steps


def _update(story: Story) -> float:
    """From power on to the confirmed report; seconds from the agent's first word on."""
    offset = story.power_on()
    story.check("the first start", "a", story.wait_boot(offset).slot)
    story.machine.wait_for("reading signed metadata", STEP_S, since=offset)
    began = time.monotonic()
    report = story.timed("install_s", lambda: story.wait_report("installed"))
    story.check("where it runs while it installs", story.published.root(1), report["booted_root"])
    story.facts["bytes_served"] = story.fleet.bytes_served()
    report = story.timed("trial_s", lambda: story.wait_report("confirmed"))
    story.check("the booted root hash", story.published.root(2), report["booted_root"])
    story.check("the slots that booted", "ab", story.slots())
    return time.monotonic() - began


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


def _cut_once(story: Story, after_s: float) -> dict[str, Any]:
    """One update with one power cut; what was cut, and what booted then."""
    offset = story.power_on()
    story.machine.wait_for("reading signed metadata", STEP_S, since=offset)
    moment = time.monotonic() + after_s
    for _ in story.machine.until(after_s + STEP_S, "the moment of the cut"):
        if time.monotonic() >= moment:
            break
    last = story.machine.log_since().strip().splitlines()[-1]
    before = len(story.boots())
    story.machine.cut_power()
    story.power_on()
    story.wait_report("confirmed")
    boots = story.boots()
    for boot in boots:
        release = {"a": 1, "b": 2}[boot.slot]
        story.check(f"the root hash of slot {boot.slot}", story.published.root(release), boot.root)
    story.check("where it ended", "b", boots[-1].slot)
    story.wait_idle(ALREADY, story.machine.log_end())
    slots = story.slots()
    return {"after": last[-100:], "before": slots[:before], "then": slots[before:]}


def _check_secure(story: Story) -> None:
    """The kernel itself says that Secure Boot is on."""
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    raw = run_in_guest(story.machine, ["/usr/bin/od", "-An", "-tu1", variable])
    story.check("the variable SecureBoot", "1", raw.split()[-1])


def _word(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return None if found is None else found[1]


# In the order in which they are run. The subset is what every change must pass.
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
        memory,
    )
}
SUBSET = (
    "delta_update",
    "unhealthy",
    "panic",
    "power_cuts",
    "unsigned_uki",
    "corrupted_root",
    "memory",
)
CUTS_SUBSET, CUTS_FULL = 3, 20
