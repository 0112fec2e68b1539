"""Seeded bugs in the order of the installer's steps: the real code, with a step in the wrong place.

Each is a function that gives what is replaced while a story is recorded. What is recorded is then
explored as any story is; the installer that is started on a state is the right one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from slipstream.installer import endings, gpt_disk, image, install, trial
from slipstream.installer.boot import esp_slots, systemd_boot
from slipstream.installer.boot.entry import EntryName, Suffix, dump_entry_name
from slipstream.installer.boot.esp import Esp
from slipstream.installer.device import Device
from slipstream.installer.journal import Journal
from slipstream.installer.pipe import FramePipe
from slipstream.installer.reports import queue_report
from slipstream.installer.slot import Target
from slipstream.installer.states import Condemn, Confirm, FellBack, Published
from slipstream.installer.stream import ImageWriter
from slipstream.installer.verdict import Outcome, Verdict
from tests.crash.story import ACROSS, BY_ROOT_HASH, COUNTED, SMALL

Patch = Any
Mutant = Callable[[], Sequence[Patch]]


def entry_before_its_file() -> Sequence[Patch]:
    """The UKI is written under the name that the boot loader lists."""

    def visible(counter: int, slot: str, *, twin: bool = False) -> str:
        return dump_entry_name(EntryName(counter, slot, None, Suffix.UKI).trial(3))

    return [patch.object(systemd_boot, "hidden_name", visible)]


def published_before_the_images() -> Sequence[Patch]:
    """The boot entry of the target slot is made visible before the root file system is there."""
    # The images in the other order, the boot entry between them.
    run = image.ImageInstall.run

    async def in_between(self: Any) -> None:
        if self.one.image.name == "rootfs":
            others = [one for one in self.prepared.plan.images if one is not self.one]
            for one in others:
                await run(replace(self, one=one))
            plan = self.prepared.plan
            files = install.boot_files(self.device, plan.manifest, plan.slot)
            self.device.boot.stage(plan.slot, plan.manifest.counter, files)
            self.device.boot.publish(plan.slot, plan.manifest.counter)
        await run(self)

    return [patch.object(image.ImageInstall, "run", in_between)]


def retired_after_the_images() -> Sequence[Patch]:
    """The target slot's old entry goes only when its slot has been written over."""
    stage = install._stage
    record_of = install._record_of

    def no_entry(device: Device, plan: Any, on_event: Any) -> None:
        device.slots.remember(record_of(plan, install.SlotState.WRITING, plan.passed_over))
        device.journal.record(install.Retired())

    async def late(device: Device, plan: Any, notes: Any, on_event: Any) -> None:
        device.boot.retire(plan.slot)
        await stage(device, plan, notes, on_event)

    return [patch.object(install, "_retire", no_entry), patch.object(install, "_stage", late)]


def renamed_folder_first() -> Sequence[Patch]:
    """After a rename only the folder is synced: what was believed to be enough."""

    def rename(self: Any, old: Path, new: Path) -> None:
        self._esp.rename(old, new)
        self._esp.sync_folder(new.parent)

    return [patch.object(systemd_boot.SystemdBoot, "_rename", rename)]


def removed_without_holding() -> Sequence[Patch]:
    """Removed files are not held open until their names are gone durably."""

    def remove(self: Esp, paths: Any) -> None:
        folder = None
        for path in paths:
            self.unlink(path)
            folder = path.parent
        if folder is not None:
            self.sync_folder(folder)

    return [patch.object(Esp, "remove", remove)]


def reported_after_the_journal() -> Sequence[Patch]:
    """The journal says that the release is published before its report is queued."""

    def commit(device: Device, plan: Any, transaction: Any, result: Any, on_event: Any) -> None:
        device.boot.publish(plan.slot, plan.manifest.counter)
        device.journal.record(Published())
        queue_report(device, transaction, "installed", "; ".join(result.notes))

    return [patch.object(install, "_commit", commit)]


def floor_after_the_journal() -> Sequence[Patch]:
    """The trial ends on record before the floor rises and the report is queued."""

    def confirm(device: Device, transaction: Any, health: Any = ()) -> Any:
        device.boot.confirm(transaction.slot, transaction.counter)
        device.journal.record(Confirm())
        endings.raise_floor(device, transaction)
        queue_report(device, transaction, "confirmed")
        return Outcome(Verdict.CONFIRMED, transaction.release, transaction.counter)

    return [patch.object(endings, "confirm", confirm)]


def denied_after_the_journal() -> Sequence[Patch]:
    """The fall back is on record before the release is denied."""
    fell_back = endings.fell_back

    def late(device: Device, transaction: Any, reason: str) -> Any:
        device.journal.record(FellBack(reason))
        return fell_back(device, transaction, reason)

    return [patch.object(endings, "fell_back", late)]


def condemned_before_its_reason() -> Sequence[Patch]:
    """The entry is given up before the journal says why."""
    real = Journal.record

    def late(self: Journal, event: Any) -> Any:
        if isinstance(event, Condemn):
            transaction = self.state.transaction  # type: ignore[union-attr]
            _CONDEMN[0](transaction.slot, transaction.counter)
        return real(self, event)

    prove = trial._prove

    async def proving(device: Device, transaction: Any, on_event: Any) -> Any:
        _CONDEMN[0] = device.boot.condemn
        return await prove(device, transaction, on_event)

    return [patch.object(Journal, "record", late), patch.object(trial, "_prove", proving)]


_CONDEMN: list[Callable[[str, int], None]] = [lambda slot, counter: None]


def checkpoint_before_its_data() -> Sequence[Patch]:
    """The checkpoint is written before the slot is synced."""

    def checkpoint(self: FramePipe, number: int, done: int) -> None:
        self.on_checkpoint(number + 1, done)
        self.target.sync()

    return [patch.object(FramePipe, "_checkpoint", checkpoint)]


def lying_medium() -> Sequence[Patch]:
    """The slot acknowledges one block and does not keep it. Not the installer's bug: see below."""
    real = Target._write_all
    lies = [1]

    def write(self: Target, offset: int, view: memoryview) -> None:
        if lies[0] and "rootfs" in self.name:
            lies[0] -= 1
            return
        real(self, offset, view)

    return [patch.object(Target, "_write_all", write)]


def lying_medium_without_read_back() -> Sequence[Patch]:
    """The same, and what was written is not read back."""

    async def believed(self: ImageWriter) -> list[int]:
        return []

    return [*lying_medium(), patch.object(ImageWriter, "_wrong", believed)]


def both_tables_at_once() -> Sequence[Patch]:
    """Both copies of the partition table are written before either is durable."""
    put = gpt_disk._OpenDisk.put

    def written(self: Any, copy: Any) -> None:
        if copy.is_primary:
            put(self, copy)
            return
        for offset, raw in copy.dump():
            self._whole.write(offset, raw)

    return [patch.object(gpt_disk._OpenDisk, "put", written)]


def names_kept() -> Sequence[Patch]:
    """The target slot's partitions keep their names while they are written over."""
    return [patch.object(install, "unpublish", lambda *_: None)]


def names_before_the_images() -> Sequence[Patch]:
    """The partitions are named by the root hash before anything stands in them."""
    retire = install._retire

    def early(device: Device, plan: Any, on_event: Any) -> None:
        retire(device, plan, on_event)
        install.publish(device, plan, lambda _: None)

    return [patch.object(install, "_retire", early)]


def names_after_the_entry() -> Sequence[Patch]:
    """The boot entry is published before its partitions have their names."""
    publish, commit = install.publish, install._commit

    def late(device: Device, plan: Any, *rest: Any) -> None:
        commit(device, plan, *rest)
        publish(device, plan, lambda _: None)

    return [
        patch.object(install, "publish", lambda *_: None),
        patch.object(install, "_commit", late),
    ]


def no_hash_tree() -> Sequence[Patch]:
    """The hash tree's partition is not written."""

    async def nothing(self: Any, *_: Any) -> None:
        self.parts.stands(f"{self.one.image.name}-verity", self.one.image.tree.root)

    return [patch.object(image.ImageInstall, "_write_tree", nothing)]


def entry_before_its_kernel() -> Sequence[Patch]:
    """The text of the boot entry is made visible before the kernel and the initrd stand."""
    stage = systemd_boot.SystemdBoot.stage
    put = systemd_boot.SystemdBoot._put

    def early(self: Any, slot: str, counter: int, boot: Any, *rest: Any) -> None:
        later: list[tuple[Any, ...]] = []
        with (
            patch.object(systemd_boot.SystemdBoot, "_put", lambda _, *paths: later.append(paths)),
            patch.object(systemd_boot.SystemdBoot, "_check_order", lambda *_: None),
        ):
            stage(self, slot, counter, boot, *rest)
        self.publish(slot, counter)
        for arguments in later:
            put(self, *arguments)

    return [patch.object(systemd_boot.SystemdBoot, "stage", early)]


def published_without_tries() -> Sequence[Patch]:
    """The release is published under the name of one that was given up: it is never started."""

    def publish(self: Any, slot: str, counter: int) -> None:
        with patch.object(EntryName, "trial", lambda name, _: name.bad):
            _PUBLISH(self, slot, counter)

    return [patch.object(systemd_boot.SystemdBoot, "publish", publish)]


_PUBLISH = systemd_boot.SystemdBoot.publish


def names_not_planned() -> Sequence[Patch]:
    """Names go where the kernel puts them: the new one of a rename stands in two sectors."""
    return [
        patch.object(esp_slots.EspSlots, name, lambda *_: nullcontext())
        for name in ("staging", "renaming")
    ]


def counting_not_planned() -> Sequence[Patch]:
    """A release's names are not put where the firmware will put the counted ones."""
    return [patch.object(esp_slots, "plan_together", lambda *_: None)]


# What is in the wrong place -> the story that shows it, and on which ESP
MUTANTS: dict[Mutant, tuple[str, str]] = {
    both_tables_at_once: (BY_ROOT_HASH, SMALL),
    names_kept: (BY_ROOT_HASH, SMALL),
    names_before_the_images: (BY_ROOT_HASH, SMALL),
    names_after_the_entry: (BY_ROOT_HASH, SMALL),
    no_hash_tree: (BY_ROOT_HASH, SMALL),
    entry_before_its_kernel: ("kernel and initrd", SMALL),
    published_without_tries: ("full update", SMALL),
    names_not_planned: ("full update", ACROSS),
    counting_not_planned: ("fall back", COUNTED),
    entry_before_its_file: ("full update", SMALL),
    published_before_the_images: ("full update", SMALL),
    retired_after_the_images: ("full update", SMALL),
    renamed_folder_first: ("full update", SMALL),
    removed_without_holding: ("full update", SMALL),
    reported_after_the_journal: ("full update", SMALL),
    floor_after_the_journal: ("full update", SMALL),
    denied_after_the_journal: ("rollback", SMALL),
    condemned_before_its_reason: ("rollback", SMALL),
    checkpoint_before_its_data: ("full update", SMALL),
    lying_medium_without_read_back: ("full update", SMALL),
}


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    with ExitStack() as patches:
        for one in mutant():
            patches.enter_context(one)
        yield
