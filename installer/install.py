"""The main job of the device: bring a signed release into the inactive slot and commit it.

`install` is the whole of it. Every step is recorded in the journal before the next begins, and
can be done again: after an interruption the same function starts from the top, finds what
stands, and goes on (docs/states.md, docs/adr/0007).
"""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.delta.errors import DeviceFault, Rejected, SlipstreamError
from slipstream.installer.device import Device
from slipstream.installer.evidence import boot_files
from slipstream.installer.image import ImageInstall
from slipstream.installer.plan import Plan
from slipstream.installer.prepare import Prepared, gather
from slipstream.installer.progress import InstallEvent, OnEvent, Stage, ignore
from slipstream.installer.reports import queue_report
from slipstream.installer.slots import SlotRecord, SlotState
from slipstream.installer.states import (
    BootStaged,
    Failed,
    Open,
    Published,
    ReadBack,
    Retired,
    Transaction,
    transaction_id,
)
from slipstream.installer.stream import Counts


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What was installed, and what it cost. Sizes in bytes, counts in chunks of 512 KiB."""

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


async def install(
    device: Device, release: str | None = None, on_event: OnEvent = ignore
) -> InstallResult:
    """Install a release, or the newest on offer, into the inactive slot and commit it.

    The next boot tries it. Raises NothingToDo, Rejected, Unavailable (call again to resume),
    DeviceFault, Busy, and Refused while a release is on trial.
    """
    with device.lock():
        on_event(InstallEvent(Stage.PREPARE, "reading signed metadata"))
        prepared = await gather(device, release)
        transaction = _open(device, prepared.plan)
        try:
            _retire(device, prepared.plan, on_event)
            counts = await _write_images(device, prepared, transaction, on_event)
            notes = (*prepared.plan.passed_over, *counts.notes)
            _stage(device, prepared.plan, notes, on_event)
        except (Rejected, DeviceFault) as error:
            _record_failure(device, transaction, error)
            raise
        _commit(device, prepared.plan, transaction, notes, on_event)
        return _result(prepared.plan, counts)


def _open(device: Device, plan: Plan) -> Transaction:
    digest = device.slots.keep_manifest(plan.manifest_raw)
    transaction = Transaction(
        id=transaction_id(digest, plan.slot),
        manifest=digest,
        release=plan.manifest.release,
        counter=plan.manifest.counter,
        slot=plan.slot,
        images=tuple(one.image.name for one in plan.images),
    )
    device.journal.begin_checkpoints(transaction.id)
    _tidy(device, transaction)
    device.journal.record(Open(transaction))
    return transaction


def _tidy(device: Device, transaction: Transaction) -> None:
    """Remove what images of other names left behind: room on the state partition is scarce."""
    for folder in (device.state / "spool", device.state / "files" / transaction.slot):
        for path in folder.glob("*"):
            if path.name not in transaction.images:
                with contextlib.suppress(OSError):  # the next install tries again
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _retire(device: Device, plan: Plan, on_event: OnEvent) -> None:
    """From here on nothing boots the target slot."""
    on_event(InstallEvent(Stage.RETIRE, f"retiring what slot {plan.slot} boots"))
    device.boot.retire(plan.slot)
    device.slots.remember(_record_of(plan, SlotState.WRITING, plan.passed_over))
    device.journal.record(Retired())


async def _write_images(
    device: Device, prepared: Prepared, transaction: Transaction, on_event: OnEvent
) -> Counts:
    counts = Counts()
    for why in prepared.plan.passed_over:
        on_event(InstallEvent(Stage.WRITE, f"not used: {why}"))
    for one in prepared.plan.images:
        await ImageInstall(device, prepared, one, transaction.id, on_event, counts).run()
    device.journal.record(ReadBack())
    return counts


def _stage(device: Device, plan: Plan, notes: Sequence[str], on_event: OnEvent) -> None:
    """Everything that the boot entry needs is in place, durable and hidden after this."""
    manifest = plan.manifest
    on_event(InstallEvent(Stage.STAGE, "staging the boot files, hidden"))
    device.boot.stage(plan.slot, manifest.counter, boot_files(device, manifest, plan.slot))
    device.slots.remember(_record_of(plan, SlotState.INSTALLED, notes))
    device.journal.record(BootStaged())


def _commit(
    device: Device, plan: Plan, transaction: Transaction, notes: Sequence[str], on_event: OnEvent
) -> None:
    """The one rename. A fault in here is not recorded as a failure: the entry may be visible."""
    manifest = plan.manifest
    on_event(InstallEvent(Stage.PUBLISH, "publishing the boot entry"))
    device.boot.publish(plan.slot, manifest.counter)
    queue_report(device, transaction, "installed", "; ".join(notes))
    device.journal.record(Published())
    on_event(InstallEvent(Stage.DONE, f"release {manifest.release} is tried at the next boot"))


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


def _record_failure(device: Device, transaction: Transaction, error: SlipstreamError) -> None:
    """Say that the release cannot be installed. The error itself matters more than this record."""
    with contextlib.suppress(SlipstreamError):
        queue_report(device, transaction, "failed", str(error))
    with contextlib.suppress(SlipstreamError):
        device.journal.record(Failed(str(error)))


def _result(plan: Plan, counts: Counts) -> InstallResult:
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
    )
