"""The main job of the device: bring a signed release into the inactive slot and commit it.

`install` is the whole of it. Every step is recorded in the journal before the next begins, and
can be done again: after an interruption the same function starts from the top, finds what
stands, and goes on (docs/states.md, docs/adr/0007).
"""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slipstream.delta.errors import DeviceFault, Rejected, SlipstreamError, Unavailable
from slipstream.installer.attempts import (
    begin_attempt,
    ends_by_itself,
    forget_attempts,
    give_up,
)
from slipstream.installer.boot.command_line import command_line_of
from slipstream.installer.damage import DAMAGE
from slipstream.installer.device import Device
from slipstream.installer.evidence import boot_files
from slipstream.installer.identity import publish, unpublish
from slipstream.installer.plan import Plan
from slipstream.installer.prepare import Prepared, check_boot_options, gather
from slipstream.installer.progress import Counts, InstallEvent, OnEvent, Stage, ignore
from slipstream.installer.reboots import forget_reboots
from slipstream.installer.release_set import ReleaseSet, parts_of
from slipstream.installer.reports import Failure, queue_report
from slipstream.installer.response import Changed, NotFound, Unusable
from slipstream.installer.slots import SlotRecord, SlotState
from slipstream.installer.staging import stage_kept_files
from slipstream.installer.states import (
    BootStaged,
    Failed,
    Idle,
    Open,
    Opened,
    Published,
    ReadBack,
    Retired,
    Transaction,
    transaction_id,
)

if TYPE_CHECKING:
    from slipstream.installer.supply import Supply


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What was installed, and what it cost. Sizes in bytes, counts in chunks of 512 KiB.

    `notes` say in words what did not go as planned: deltas that were given up, chunks that came out
    differently, risks that were taken. `delta_given_up`: a smaller delta was not used, or not for all of it.
    """

    release: str
    counter: int
    slot: str
    image_bytes: int
    bytes_fetched: int
    bytes_refetched: int
    bytes_reused: int
    bytes_written: int
    chunks: int
    chunks_standing: int
    delta_given_up: bool = False
    notes: tuple[str, ...] = ()


async def install(
    device: Device,
    release: str | None = None,
    on_event: OnEvent = ignore,
    *,
    attended: bool = True,
    retry: bool = False,
    publish: bool = True,
) -> InstallResult:
    """Install a release, or the newest on offer, into the inactive slot and commit it.

    The next boot tries it. Not `attended`, it is refused where boot counting is unproved. With `retry`
    a named release is installed though it was given up or fell back here; that is forgiven only once
    the install can begin. Without `publish` it ends before the boot files are staged: the slot is
    written and read back, and the next boot is what it was; another call does the rest. Raises
    NothingToDo, Rejected, Unavailable (call again to resume), DeviceFault, Busy, and Refused while a
    release is on trial.
    """
    with device.lock():
        on_event(InstallEvent(Stage.PREPARE, "reading signed metadata"))
        forgiven = release if retry else None
        prepared = await gather(device, release, attended=attended, forgiven=forgiven)
        transaction = _transaction_of(prepared.plan)
        _count_attempt(device, transaction, attended=attended)
        with ends_by_itself(device):
            prepared, supplies = await _gather_supplies(device, prepared, transaction)
            if forgiven is not None and device.slots.forgive(forgiven):
                on_event(InstallEvent(Stage.PREPARE, f"release {forgiven} is tried again"))
            result = await _install(
                device, prepared, supplies, transaction, on_event, publish=publish
            )
        forget_attempts(device)
        return result


async def _gather_supplies(
    device: Device, prepared: Prepared, transaction: Transaction
) -> tuple[Prepared, Mapping[str, "Supply"]]:
    """S0, the end of it: what the install lives on can be had. Nothing of the slot is touched yet.

    A cut boots the old release, and its fallback is still there.
    """
    # Not before there is something to write: a look that finds nothing new needs no decoders.
    from slipstream.installer.supply import gather_supplies  # noqa: PLC0415

    state = device.journal.state
    mine = not isinstance(state, Idle) and state.transaction.id == transaction.id
    touched = mine and not isinstance(state, Opened)
    try:
        return await gather_supplies(device, prepared, touched=touched)
    except DAMAGE as error:
        if mine and isinstance(error, Rejected):
            _record_failure(device, transaction, error)
        else:
            _report_failure(device, transaction, error)
        raise


async def _install(
    device: Device,
    prepared: Prepared,
    supplies: Mapping[str, "Supply"],
    transaction: Transaction,
    on_event: OnEvent,
    *,
    publish: bool,
) -> InstallResult:
    """From the first write to the commit: the steps of docs/boot.md, "The write order"."""
    plan = prepared.plan
    parts = ReleaseSet(parts_of(plan.manifest, device.config.verity))
    _open(device, plan, transaction)
    try:
        _retire(device, plan, on_event)
        counts = await _write_images(device, prepared, supplies, transaction, parts, on_event)
        result = _result(plan, counts, prepared.risks)
        if not publish:
            return _hold_back(device, plan, transaction, result, on_event)
        _name_partitions(device, plan, parts, on_event)
        await _stage(device, plan, result.notes, on_event)
    except (Rejected, DeviceFault) as error:
        _record_failure(device, transaction, error)
        raise
    except Unavailable as error:
        if isinstance(error, NotFound | Unusable | Changed):
            # It waits for the server to have the payload again: somebody must hear of that.
            _report_failure(device, transaction, error)
        _note_stop(device, plan, error)
        raise
    parts.check_complete(plan.slot)
    _commit(device, plan, transaction, result, on_event)
    return result


def _count_attempt(device: Device, transaction: Transaction, *, attended: bool) -> None:
    """Durably, before anything else is written. Raises DeviceFault when it died too often, or the
    device did, whatever was installed; a person at hand (`attended`) may try all the same."""
    attempts = begin_attempt(device, transaction)
    if attempts.hopeless or (attempts.all_hopeless and not attended):
        raise DeviceFault(
            f"release {transaction.release}: {give_up(device, transaction, attempts)}",
            hint=("" if attempts.all_hopeless else "It is not tried again; a newer one is. ")
            + f"To try it: slipstream device install --release {transaction.release} --retry",
        )


def _transaction_of(plan: Plan) -> Transaction:
    return Transaction(
        id=transaction_id(plan.digest, plan.slot),
        manifest=plan.digest,
        release=plan.manifest.release,
        counter=plan.manifest.counter,
        slot=plan.slot,
        images=tuple(one.image.name for one in plan.images),
    )


def _open(device: Device, plan: Plan, transaction: Transaction) -> None:
    """S3: the transaction is on record. A cut boots the old release; an install begins again."""
    device.slots.keep_manifest(plan.manifest_raw)
    device.journal.begin_checkpoints(transaction.id)
    _tidy(device, transaction)
    forget_reboots(device)
    device.journal.record(Open(transaction))


def _tidy(device: Device, transaction: Transaction) -> None:
    """Remove what images of other names left behind: room on the state partition is scarce."""
    for folder in (device.state / "spool", device.state / "files" / transaction.slot):
        with contextlib.suppress(OSError):  # the next install tries again
            for path in folder.glob("*"):
                if path.name not in transaction.images:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _retire(device: Device, plan: Plan, on_event: OnEvent) -> None:
    """S1, S2 (and S15 of the release that stood there): from here on nothing boots the target slot,
    and nothing finds its partitions.

    A cut boots the old release. The entry goes before the names: never an entry without what it
    needs.
    """
    on_event(InstallEvent(Stage.RETIRE, f"retiring what slot {plan.slot} boots"))
    device.boot.retire(plan.slot)
    unpublish(device, plan, uuid.uuid4, _saying(Stage.RETIRE, on_event))
    device.slots.remember(_record_of(plan, SlotState.WRITING, plan.passed_over))
    device.journal.record(Retired())


async def _write_images(
    device: Device,
    prepared: Prepared,
    supplies: Mapping[str, "Supply"],
    transaction: Transaction,
    parts: ReleaseSet,
    on_event: OnEvent,
) -> Counts:
    """S4 to S6: each image is streamed, its hash tree made, and both are read back.

    A cut boots the old release; the next install finds by their digests what chunks stand.
    """
    from slipstream.installer.image import ImageInstall  # noqa: PLC0415

    counts = Counts()
    for risk in prepared.risks:
        on_event(InstallEvent(Stage.WRITE, f"at risk: {risk}"))
    for why in prepared.plan.passed_over:
        on_event(InstallEvent(Stage.WRITE, why))
    for one in prepared.plan.images:
        await ImageInstall(
            device, prepared, one, supplies, transaction.id, on_event, counts, parts
        ).run()
    parts.check_complete(prepared.plan.slot)
    device.journal.record(ReadBack())
    return counts


def _name_partitions(device: Device, plan: Plan, parts: ReleaseSet, on_event: OnEvent) -> None:
    """S6b: the whole release stands, so its partitions may be found. A cut boots the old release.

    Before that: does what it boots with name what was written?
    """
    parts.check_complete(plan.slot)
    boot = boot_files(device, plan.manifest, plan.slot)
    check_boot_options(device, plan, command_line_of(boot))
    publish(device, plan, _saying(Stage.STAGE, on_event))


async def _stage(device: Device, plan: Plan, notes: Sequence[str], on_event: OnEvent) -> None:
    """S7: everything that the boot entry needs is in place, durable and hidden after this.

    A cut boots the old release: hidden names are not listed.
    """
    manifest = plan.manifest
    on_event(InstallEvent(Stage.STAGE, "staging the boot files, hidden"))
    await stage_kept_files(device, manifest, plan.slot)
    device.slots.remember(_record_of(plan, SlotState.INSTALLED, notes))
    device.journal.record(BootStaged())


def _hold_back(
    device: Device, plan: Plan, transaction: Transaction, result: InstallResult, on_event: OnEvent
) -> InstallResult:
    """The whole release stands, and nothing boots it: somebody else says when. Told once."""
    device.slots.remember(_record_of(plan, SlotState.WRITING, result.notes))
    details = {"downloaded": True, **_figures(plan, result)}
    queue_report(device, transaction, "progress", "downloaded", details=details)
    release = plan.manifest.release
    on_event(InstallEvent(Stage.DONE, f"release {release} stands in slot {plan.slot}, unpublished"))
    return result


def _commit(
    device: Device, plan: Plan, transaction: Transaction, result: InstallResult, on_event: OnEvent
) -> None:
    """S8 and S9: the one rename, then its record.

    A cut before the rename is durable boots the old release, after it the new one; the entry speaks,
    whatever the record says. A fault in here is not recorded as a failure: the entry may be visible.
    """
    manifest = plan.manifest
    on_event(InstallEvent(Stage.PUBLISH, "publishing the boot entry"))
    device.boot.publish(plan.slot, manifest.counter)
    figures = _figures(plan, result)
    queue_report(device, transaction, "installed", "; ".join(result.notes), details=figures)
    device.journal.record(Published())
    on_event(InstallEvent(Stage.DONE, f"release {manifest.release} is tried at the next boot"))


def _saying(stage: Stage, on_event: OnEvent) -> Callable[[str], None]:
    return lambda text: on_event(InstallEvent(stage, text))


# --- records


def _record_of(plan: Plan, state: SlotState, notes: Sequence[str]) -> SlotRecord:
    return SlotRecord(
        slot=plan.slot,
        state=state,
        release=plan.manifest.release,
        counter=plan.manifest.counter,
        manifest=plan.digest,
        images={one.image.name: one.image.tree.root for one in plan.images},
        notes=tuple(notes),
    )


def _report_failure(device: Device, transaction: Transaction, error: SlipstreamError) -> None:
    """Say why the release is not installed. The error itself matters more than this report."""
    with contextlib.suppress(SlipstreamError):
        queue_report(device, transaction, "failed", str(error), failure=Failure.of(error))


def _record_failure(device: Device, transaction: Transaction, error: SlipstreamError) -> None:
    """The same, and that the install has ended: another attempt begins anew."""
    _report_failure(device, transaction, error)
    with contextlib.suppress(SlipstreamError):
        device.journal.record(Failed(str(error)))


def _note_stop(device: Device, plan: Plan, error: SlipstreamError) -> None:
    """Why the slot is still being written, for `device status`; the next attempt forgets it."""
    with contextlib.suppress(SlipstreamError):
        record = device.slots.record(plan.slot)
        device.slots.remember(replace(record, stopped=str(error)))


def _figures(plan: Plan, result: InstallResult) -> dict[str, int | bool]:
    """What this attempt fetched, what full payloads would have been (bytes), how the delta did."""
    return {
        "bytes_fetched": result.bytes_fetched,
        "bytes_refetched": result.bytes_refetched,
        "image_bytes": result.image_bytes,
        "full_bytes": sum(one.full.payload_bytes for one in plan.images),
        "delta_given_up": result.delta_given_up,
    }


def _result(plan: Plan, counts: Counts, risks: Sequence[str]) -> InstallResult:
    return InstallResult(
        release=plan.manifest.release,
        counter=plan.manifest.counter,
        slot=plan.slot,
        image_bytes=sum(one.image.tree.image_size for one in plan.images),
        bytes_fetched=counts.bytes_fetched,
        bytes_refetched=counts.bytes_refetched,
        bytes_reused=counts.bytes_reused,
        bytes_written=counts.bytes_written,
        chunks=counts.chunks,
        chunks_standing=counts.chunks_standing,
        delta_given_up=bool(plan.passed_over or counts.notes),
        notes=(*plan.passed_over, *counts.notes, *risks),
    )
