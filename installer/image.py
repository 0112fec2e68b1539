"""Install one image of a plan: open its place and its source, write it.

What describes it was fetched before (supply.py); the bytes themselves are stream.py's business.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from slipstream.delta.errors import DeviceFault
from slipstream.delta.manifest import Place
from slipstream.delta.payload import Index
from slipstream.delta.tree import ChunkList
from slipstream.installer.config import Verity, tree_name
from slipstream.installer.damage import naming
from slipstream.installer.device import Device
from slipstream.installer.hash_area import (
    append_hash_area,
    hash_area_end,
    hash_partition_size,
    write_hash_partition,
)
from slipstream.installer.plan import ImagePlan
from slipstream.installer.ports import SlotTarget
from slipstream.installer.prepare import Prepared
from slipstream.installer.progress import Counts, InstallEvent, OnEvent, Stage
from slipstream.installer.release_set import ReleaseSet
from slipstream.installer.slot import open_boot_file, open_partition
from slipstream.installer.stream import ImageWriter, Payloads
from slipstream.installer.supply import Supply, fetch_index, open_delta_source


@dataclass(frozen=True, slots=True)
class ImageInstall:
    """One image on its way into the target slot. `counts` sums over all images, `parts` is
    told what stands."""

    device: Device
    prepared: Prepared
    one: ImagePlan
    supplies: Mapping[str, Supply]
    transaction: str
    on_event: OnEvent
    counts: Counts
    parts: ReleaseSet

    @property
    def supply(self) -> Supply:
        """What this image is made from."""
        return self.supplies[self.one.image.name]

    async def run(self) -> None:
        """Make the image stand in its place, verified. Raises as install does."""
        image, device, chunks = self.one.image, self.device, self.supply.chunks
        release = self.prepared.plan.manifest.release
        with contextlib.ExitStack() as places:
            target = self._open_target()
            places.callback(target.close)
            writer = ImageWriter(
                name=image.name,
                transaction=self.transaction,
                target=target,
                chunks=chunks,
                payloads=Payloads(self._open_delta(places), self._full, image.full.index),
                fetcher=device.fetcher,
                journal=device.journal,
                spool=device.state / "spool" / image.name,
                say=self._say,
                on_progress=self._progress,
                counts=self.counts,
            )
            with naming(f"the payload of {image.name}, release {release}"):
                await writer.run()
            self.parts.stands(image.name, image.tree.root)
            if image.place is Place.PARTITION:
                await self._write_tree(target, chunks, places)

    async def _write_tree(
        self, target: SlotTarget, chunks: ChunkList, places: contextlib.ExitStack
    ) -> None:
        """S5: the hash tree of the image that was read back, where the configuration wants it."""
        name, tree = self.one.image.name, self.one.image.tree
        match self.device.config.verity:
            case Verity.NONE | Verity.INITRD:
                pass
            case Verity.APPEND:
                if hash_area_end(tree) <= target.size:
                    await append_hash_area(target, chunks)
                else:
                    self._say("no room for the hash tree behind the image: it is not written")
            case Verity.PARTITION:
                hashes = self._open_place(tree_name(name), hash_partition_size(tree))
                places.callback(hashes.close)
                await write_hash_partition(target, hashes, chunks)
                self.parts.stands(tree_name(name), tree.root)
            case _ as unreachable:
                assert_never(unreachable)

    def _open_target(self) -> SlotTarget:
        image, slot = self.one.image, self.prepared.plan.slot
        size = image.tree.image_size
        if image.place is Place.PARTITION:
            return self._open_place(image.name, size)
        return open_boot_file(self.device.boot_file(slot, image.name), f"{slot}/{image.name}", size)

    def _open_place(self, name: str, size: int) -> SlotTarget:
        """A partition of the target slot, by its name there."""
        plan, slots = self.prepared.plan, self.device.config.slots
        running = () if plan.active is None else slots[plan.active].partitions.values()
        place = slots[plan.slot].partitions[name]  # the plan says that it is there
        return open_partition(place, f"{plan.slot}/{name}", size, running)

    def _open_delta(self, places: contextlib.ExitStack) -> tuple[Index, SlotTarget] | None:
        """The delta's index and its open source; None to use the full payload, saying why."""
        index, image, active = self.supply.delta, self.one.image, self.prepared.plan.active
        if index is None or active is None:
            return None
        try:
            source = open_delta_source(self.device, active, image, index)
        except DeviceFault as error:  # since it was looked at
            self._say(f"{image.name}: the full payload is used: {error}")
            return None
        places.callback(source.close)
        return index, source

    async def _full(self) -> Index:
        if self.supply.full is not None:
            return self.supply.full
        return await fetch_index(self.device, self.prepared.trusted, self.one.image, self.one.full)

    def _say(self, text: str) -> None:
        self.on_event(InstallEvent(Stage.WRITE, text, self.one.image.name))

    def _progress(self, stage: str, done: int, total: int, fetched: int) -> None:
        self.on_event(InstallEvent(Stage(stage), "", self.one.image.name, done, total, fetched))
