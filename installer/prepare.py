"""Gather what a plan needs: trusted metadata, the manifest, the facts of this device.

Writes nothing but metadata. The decision itself is plan.py's.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from slipstream.delta.digest import Digest
from slipstream.delta.entries import (
    DeltaEntry,
    ReleaseEntry,
    parse_delta_entry,
    parse_full_entry,
    parse_release_entry,
)
from slipstream.delta.errors import (
    FormatError,
    NothingToDo,
    Rejected,
    SlipstreamError,
    UsageError,
)
from slipstream.delta.layout import delta_path, full_path, manifest_path
from slipstream.delta.limits import MANIFEST_BYTES_MAX
from slipstream.delta.manifest import Manifest, parse_manifest
from slipstream.delta.packing.libraries import available
from slipstream.delta.target_file import TargetFile
from slipstream.delta.trust import TrustedSet
from slipstream.installer.boot.command_line import check_command_line
from slipstream.installer.config import Config, IdentityMode
from slipstream.installer.counting import check_counting
from slipstream.installer.damage import naming
from slipstream.installer.device import Device
from slipstream.installer.findings import entry_of
from slipstream.installer.identity import check_fallback, check_identity, check_unique
from slipstream.installer.plan import DeviceFacts, Plan, choose_target, plan_install
from slipstream.installer.ports import Booted, EntryState
from slipstream.installer.refresh import fetch_target, find_target, open_first_root, refresh
from slipstream.installer.response import NotFound, Unusable
from slipstream.installer.slot import check_places, identify
from slipstream.installer.sources import find_sources
from slipstream.installer.states import Committed, Condemned, Refused, Staged, Trial

NO_METADATA = (
    "The running release is untouched. Check [server] url, or bring the repository's metadata back:"
    " slipstream repo refresh, or a backup"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, the metadata that it was made from, and what a person should know of its risks."""

    plan: Plan
    trusted: TrustedSet
    risks: tuple[str, ...] = ()


async def prepare(device: Device, release: str | None = None) -> Plan:
    """What `install` would do, for `device plan`; takes the lock. Raises as install does."""
    with device.lock():
        return (await gather(device, release)).plan


async def gather(
    device: Device, release: str | None, *, attended: bool = True, forgiven: str | None = None
) -> Prepared:
    """S0: the plan for a release, or for the newest on offer. The caller holds the lock.

    Nothing of a payload is fetched before the boot loader said that a switch can work, and that it
    can be undone: without a person at hand (not `attended`) that has to be proved. That the release
    `forgiven` was tried here before is no reason not to. Raises
    NothingToDo, Rejected, Unavailable, DeviceFault, UsageError, and Refused while a release is on
    trial.
    """
    refuse_while_on_trial(device)
    try:
        trusted = await refresh(
            device.fetcher,
            device.metadata,
            device.root(),
            device.now(),
            say=device.notices.append,
            root_name=_root_name(device),
        )
    except NotFound as error:
        error.concerns("signed metadata of the repository", hint=NO_METADATA)
        raise
    entry = find_release(device, trusted, release)
    with naming(f"the manifest of release {entry.release}"):
        raw = await fetch_target(
            device.fetcher,
            device.metadata,
            trusted,
            manifest_path(entry.release),
            size_max=MANIFEST_BYTES_MAX,
        )
    manifest = parse_manifest(raw)
    if (manifest.release, manifest.counter) != (entry.release, entry.counter):
        raise Rejected(
            "the manifest is not the one that was named",
            where=manifest_path(entry.release),
            expected=f"release {entry.release}, counter {entry.counter}",
            got=f"release {manifest.release}, counter {manifest.counter}",
        )
    device.note_signed_time(datetime.fromtimestamp(manifest.issued, UTC))
    facts = await gather_facts(device, manifest, trusted, forgiven)
    deltas, lost = await _find_deltas(device, trusted, manifest, facts)
    plan = plan_install(manifest, raw, facts, deltas)
    if lost is not None:
        plan = plan.passing_over(f"deltas: {lost}")
    device.boot.check(plan.slot, plan.boot_bytes)
    risks = (
        check_counting(device, attended=attended),
        check_fallback(device, plan, attended=attended),
    )
    check_unique(device, plan)
    if manifest.boot.options:  # a UKI's own is in the file, which is not here yet
        check_boot_options(device, plan, manifest.boot.options)
    return Prepared(plan, trusted, tuple(risk for risk in risks if risk is not None))


def check_boot_options(device: Device, plan: Plan, cmdline: str) -> None:
    """The kernel command line boots what the manifest signs, on this device. Raises Rejected."""
    gpt = device.config.identity is IdentityMode.GPT
    check_command_line(cmdline, plan.manifest, gpt=gpt, bare=plan.bare)


def check_configuration(device: Device) -> None:
    """What an install would refuse whatever is offered. Raises DeviceFault, Rejected, UsageError."""
    check_slots(device.config)
    check_root(device)
    check_cmdline(device.config)


def check_slots(config: Config) -> None:
    """Every place of the slots is there, no two share bytes, and those that are to be renamed can
    be. Raises DeviceFault."""
    check_places(
        (f"slot {slot.name} {image}", place)
        for slot in config.slots.values()
        for image, place in slot.partitions.items()
    )
    check_identity(config)


def check_cmdline(config: Config) -> None:
    """The running kernel's command line can be read: by it the device knows what it booted.

    Raises UsageError.
    """
    path = config.boot.cmdline
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(
            "boot.cmdline cannot be read",
            where=config.path,
            expected="the running kernel's command line",
            got=f"{path}: {error.strerror}",
            hint="Leave it out: /proc/cmdline is meant by default",
        ) from error


def check_root(device: Device) -> None:
    """The first root is sound, and the one that was trusted so far. Raises Rejected, UsageError."""
    open_first_root(device.metadata, device.root(), device.now(), _root_name(device))


def _root_name(device: Device) -> str:
    return f"{device.config.path}: server.root {device.config.server.root}"


def refuse_while_on_trial(device: Device) -> None:
    """The target slot may hold the only good release, or one that the next boot tries."""
    state = device.journal.state
    match state:
        case Committed():
            how = "waits for its trial: reboot to try it"
        case Staged() if entry := entry_of(state.transaction, device.boot.entries()):
            # Cut between the rename and its record: the entry on disk is the truth.
            if entry.state is not EntryState.TRIAL:
                return
            how = "waits for its trial: reboot to try it"
        case Trial():
            how = "is on trial: its health checks come first"
        case Condemned():
            how = f"was found bad: reboot into the other one ({state.reason})"
        case _:
            return
    raise Refused(
        f"release {state.transaction.release} {how}", hint="See `slipstream device status`"
    )


def find_release(device: Device, trusted: TrustedSet, release: str | None) -> ReleaseEntry:
    """The named release, or the newest of the device's product and channel that may be tried."""
    if release is not None:
        found = trusted.targets.get(manifest_path(release))
        if found is None:
            raise Rejected(
                "no signed metadata names this release",
                where=device.config.server.url,
                got=release,
                hint="Check its name, or that the repository still offers it",
            )
        return parse_release_entry(found.custom)
    entries = [
        entry
        for entry, target in _releases(trusted)
        if (entry.product, entry.channel) == (device.config.product, device.config.channel)
        and device.slots.is_denied(target.digest) is None
    ]
    if not entries:
        raise NothingToDo(
            "no release is on offer",
            where=device.config.server.url,
            expected=f"product {device.config.product}, channel {device.config.channel}",
        )
    newest = max(entries, key=lambda entry: entry.counter)
    running = device.boot.booted().counter
    if running is not None and newest.counter < running:
        raise NothingToDo(
            "nothing newer than the running release is on offer",
            where=device.config.server.url,
            expected=f"a counter above {running}",
            got=f"release {newest.release}, counter {newest.counter}",
        )
    return newest


def _releases(trusted: TrustedSet) -> Iterator[tuple[ReleaseEntry, TargetFile]]:
    """Every release that signed metadata names, with its manifest."""
    for path, target in trusted.targets.items():
        if path.endswith("/manifest.json") and path.startswith("releases/"):
            yield parse_release_entry(target.custom), target


async def gather_facts(
    device: Device, manifest: Manifest, trusted: TrustedSet, forgiven: str | None = None
) -> DeviceFacts:
    """The device as a plan sees it. Raises DeviceFault when a slot is not what it should be."""
    config = device.config
    check_slots(config)
    check_cmdline(config)
    booted = device.boot.booted()
    target = choose_target(config.slots, booted.slot, entries=len(device.boot.entries()))
    places = config.slots[target].partitions
    sources = await find_sources(device, manifest, booted)
    return DeviceFacts(
        product=config.product,
        hardware=config.hardware,
        channel=config.channel,
        floor=device.floor(),
        active=booted.slot,
        target=target,
        counter=booted.counter,
        root=booted.root,
        sources=sources,
        sizes={
            name: identify(place, f"{target}/{name}").range.size for name, place in places.items()
        },
        denied=tuple(one for one in device.slots.denied() if one.release != forgiven),
        memory_bytes=config.memory_bytes,
        libraries=available(),
        verity=config.verity,
        releases=_releases_of(device, trusted, booted, sources),
    )


def _releases_of(
    device: Device, trusted: TrustedSet, booted: Booted, sources: Mapping[str, tuple[Digest, ...]]
) -> dict[Digest, str]:
    """The versions that these roots are of, for words: by the running slot's record, else by signed
    metadata the newest that is not above what runs."""
    found: dict[Digest, str] = {}
    with contextlib.suppress(FormatError):  # a stranger's entry is no reason not to install
        for entry in sorted((one for one, _ in _releases(trusted)), key=lambda one: one.counter):
            if booted.counter is None or entry.counter > booted.counter:
                break
            for image, roots in sources.items():
                full = trusted.targets.get(full_path(entry.release, image))
                if full is not None and (root := parse_full_entry(full.custom).root) in roots:
                    found[root] = entry.release
    record = device.slots.record(booted.slot or "")
    if record.release is not None:
        found |= dict.fromkeys(record.images.values(), record.release)
    return found


async def _find_deltas(
    device: Device, trusted: TrustedSet, manifest: Manifest, facts: DeviceFacts
) -> tuple[dict[str, DeltaEntry], SlipstreamError | None]:
    """The deltas on offer by target path, and what kept the device from seeing all of them.

    Their signed list is missing or unsound: that costs the deltas. The release itself is signed by
    another role. Raises Unavailable for a link that fails.
    """
    found: dict[str, DeltaEntry] = {}
    for image in manifest.images:
        for source in facts.sources.get(image.name, ()):
            path = delta_path(manifest.release, image.name, source)
            try:
                target = await find_target(device.fetcher, device.metadata, trusted, path)
                if target is not None:
                    found[path] = parse_delta_entry(target.custom)
            except (Rejected, NotFound, Unusable) as error:
                return found, error
    return found, None
