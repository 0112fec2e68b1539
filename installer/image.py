"""Install one image of a plan: fetch what describes it, open its place and its source, write it.

The bytes themselves are stream.py's business; this file decides which payload feeds it.
"""

import contextlib
from dataclasses import dataclass
from typing import assert_never

from slipstream.delta.digest import DIGEST_BYTES
from slipstream.delta.errors import DeviceFault, Rejected
from slipstream.delta.layout import chunks_blob
from slipstream.delta.limits import INDEX_BYTES_MAX
from slipstream.delta.manifest import Place
from slipstream.delta.packing.libraries import available
from slipstream.delta.payload import Index, parse_index
from slipstream.delta.tree import ChunkList, verify_chunk_list
from slipstream.installer.config import Verity, tree_name
from slipstream.installer.device import Device
from slipstream.installer.hash_area import (
    append_hash_area,
    hash_area_end,
    hash_partition_size,
    write_hash_partition,
)
from slipstream.installer.plan import BASE_MEMORY_BYTES, ImagePlan, PayloadChoice
from slipstream.installer.ports import SlotTarget
from slipstream.installer.prepare import Prepared
from slipstream.installer.progress import Counts, InstallEvent, OnEvent, Stage
from slipstream.installer.refresh import fetch_target
from slipstream.installer.release_set import ReleaseSet
from slipstream.installer.slot import open_boot_file, open_partition, open_source
from slipstream.installer.sources import source_place
from slipstream.installer.stream import ImageWriter, Payloads


@dataclass(frozen=True, slots=True)
class ImageInstall:
    """One image on its way into the target slot. `counts` sums over all images, `parts` is
    told what stands."""

    device: Device
    prepared: Prepared
    one: ImagePlan
    transaction: str
    on_event: OnEvent
    counts: Counts
    parts: ReleaseSet

    async def run(self) -> None:
        """Make the image stand in its place, verified. Raises as install does."""
        image, device = self.one.image, self.device
        chunks = await self._fetch_chunks()
        with contextlib.ExitStack() as places:
            target = self._open_target()
            places.callback(target.close)
            writer = ImageWriter(
                name=image.name,
                transaction=self.transaction,
                target=target,
                chunks=chunks,
                payloads=Payloads(await self._open_delta(places), self._full, image.full.index),
                fetcher=device.fetcher,
                journal=device.journal,
                spool=device.state / "spool" / image.name,
                say=self._say,
                on_progress=self._progress,
                counts=self.counts,
            )
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

    async def _fetch_chunks(self) -> ChunkList:
        image = self.one.image
        size = DIGEST_BYTES * image.tree.chunk_count
        path = chunks_blob(image.chunks)
        raw = await self.device.fetcher.fetch(path, size_max=size, size=size)
        image.chunks.check(raw, "the chunk list", path)
        return verify_chunk_list(raw, image.tree)

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

    async def _open_delta(self, places: contextlib.ExitStack) -> tuple[Index, SlotTarget] | None:
        """The delta's index and its open source; None to use the full payload, saying why."""
        image, active, device = self.one.image, self.prepared.plan.active, self.device
        if self.one.payload.source is None or active is None:
            return None
        index = await self._fetch_index(self.one.payload)
        try:
            place = source_place(device, active, image.name, image.place)
            if place is None:
                raise DeviceFault("the running slot does not hold it")
            source = open_source(place, f"{active}/{image.name}")
            places.callback(source.close)
            if index.source_size > source.size:
                raise DeviceFault(
                    "the delta's source is larger", expected=source.size, got=index.source_size
                )
            if index.memory_bytes + BASE_MEMORY_BYTES > device.config.memory_bytes:
                raise DeviceFault("the delta needs more memory", got=index.memory_bytes)
            missing = sorted(set(index.libraries) - available())
            if missing:
                raise DeviceFault("the delta needs " + ", ".join(missing))
        except DeviceFault as error:
            self._say(f"{image.name}: the full payload is used: {error}")
            return None
        return index, source

    async def _full(self) -> Index:
        return await self._fetch_index(self.one.full)

    async def _fetch_index(self, choice: PayloadChoice) -> Index:
        """A payload's index, signed and made for this image. Raises Rejected."""
        image = self.one.image
        raw = await fetch_target(
            self.device.fetcher,
            self.device.metadata,
            self.prepared.trusted,
            choice.path,
            size_max=INDEX_BYTES_MAX,
        )
        if choice.source is None:
            image.full.index.check(raw, "the full payload's index", choice.path)
        index = parse_index(raw)
        if index.target_size != image.tree.image_size:
            raise Rejected(
                "the payload makes another image",
                where=choice.path,
                expected=f"{image.tree.image_size} bytes",
                got=index.target_size,
            )
        if choice.source is None and (index.source_size or index.recipes):
            # It is what every device falls back to, whatever it has.
            raise Rejected("a full payload must need no source and no library", where=choice.path)
        return index

    def _say(self, text: str) -> None:
        self.on_event(InstallEvent(Stage.WRITE, text, self.one.image.name))

    def _progress(self, stage: str, done: int, total: int, fetched: int) -> None:
        self.on_event(InstallEvent(Stage(stage), "", self.one.image.name, done, total, fetched))
