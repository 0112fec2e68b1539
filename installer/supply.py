"""What an install lives on, had and checked before anything of the device is touched.

The chunk lists, the indexes of the payloads, and that the server has the payloads themselves.
What a person or a power cut did to a delta on the server costs the delta, not the update: its
place takes the full payload. Where neither can be had nothing was changed yet.

Writes nothing. The frames are stream.py's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slipstream.delta.digest import DIGEST_BYTES
from slipstream.delta.errors import DeviceFault, Rejected
from slipstream.delta.layout import chunks_blob, payload_blob
from slipstream.delta.limits import INDEX_BYTES_MAX
from slipstream.delta.manifest import ImageEntry
from slipstream.delta.packing.libraries import available
from slipstream.delta.payload import Index, parse_index
from slipstream.delta.tree import ChunkList, verify_chunk_list
from slipstream.delta.trust import TrustedSet
from slipstream.installer.damage import DAMAGE, naming
from slipstream.installer.device import Device
from slipstream.installer.plan import BASE_MEMORY_BYTES, ImagePlan, PayloadChoice
from slipstream.installer.ports import SlotTarget
from slipstream.installer.prepare import Prepared
from slipstream.installer.refresh import fetch_target
from slipstream.installer.slot import open_source
from slipstream.installer.sources import source_place


@dataclass(frozen=True, slots=True)
class Supply:
    """What one image is made from. `delta` is the index of the payload that starts from the running
    slot, or None; `full` that of the full one, None while the delta makes do without."""

    chunks: ChunkList
    delta: Index | None
    full: Index | None


async def gather_supplies(
    device: Device, prepared: Prepared, *, touched: bool
) -> tuple[Prepared, Mapping[str, Supply]]:
    """The supply of each image, and the plan with the full payload where the delta is no good.

    With the slot `touched` by an earlier attempt there is nothing to keep as it was: that the
    server has the payloads is then seen when they are needed, which they may not be. Raises
    Rejected, NotFound and Unusable (neither payload can be had), Unavailable (try later).
    """
    images, supplies = [], {}
    for planned in prepared.plan.images:
        one, supply = await _gather_supply(device, prepared, planned, touched=touched)
        images.append(one)
        supplies[one.image.name] = supply
    return replace(prepared, plan=replace(prepared.plan, images=tuple(images))), supplies


async def _gather_supply(
    device: Device, prepared: Prepared, one: ImagePlan, *, touched: bool
) -> tuple[ImagePlan, Supply]:
    release = prepared.plan.manifest.release
    with naming(f"the chunk list of {one.image.name}, release {release}"):
        chunks = await _fetch_chunks(device, one.image)
    active = prepared.plan.active
    if one.payload.source is not None and active is not None:
        try:
            delta = await fetch_index(device, prepared.trusted, one.image, one.payload)
            open_delta_source(device, active, one.image, delta).close()
            if not touched:
                await _probe(device, delta)
        except (*DAMAGE, DeviceFault) as error:
            one = _without_delta(one, error)
        else:
            return one, Supply(chunks, delta, None)
    with naming(f"the full payload of {one.image.name}, release {release}"):
        full = await fetch_index(device, prepared.trusted, one.image, one.full)
        if not touched:
            await _probe(device, full)
    return one, Supply(chunks, None, full)


async def fetch_index(
    device: Device, trusted: TrustedSet, image: ImageEntry, choice: PayloadChoice
) -> Index:
    """A payload's index, signed and made for this image. Raises Rejected, Unavailable."""
    raw = await fetch_target(
        device.fetcher, device.metadata, trusted, choice.path, size_max=INDEX_BYTES_MAX
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


def open_delta_source(device: Device, active: str, image: ImageEntry, delta: Index) -> SlotTarget:
    """The image in the running slot that a delta starts from. Raises DeviceFault, and for whatever
    else keeps this device from applying it."""
    if delta.memory_bytes + BASE_MEMORY_BYTES > device.config.memory_bytes:
        raise DeviceFault("the delta needs more memory", got=delta.memory_bytes)
    missing = sorted(set(delta.libraries) - available())
    if missing:
        raise DeviceFault("the delta needs " + ", ".join(missing))
    place = source_place(device, active, image.name, image.place)
    if place is None:
        raise DeviceFault("the running slot does not hold it")
    source = open_source(place, f"{active}/{image.name}")
    if delta.source_size > source.size:
        source.close()
        raise DeviceFault(
            "the delta's source is larger", expected=source.size, got=delta.source_size
        )
    return source


async def _fetch_chunks(device: Device, image: ImageEntry) -> ChunkList:
    size = DIGEST_BYTES * image.tree.chunk_count
    path = chunks_blob(image.chunks)
    raw = await device.fetcher.fetch(path, size_max=size, size=size)
    image.chunks.check(raw, "the chunk list", path)
    return verify_chunk_list(raw, image.tree)


async def _probe(device: Device, index: Index) -> None:
    """The payload is there and as long as its index says; what is in it is seen frame by frame."""
    if index.body_size:
        path = payload_blob(index.digest)
        # The byte before the body: of a server without ranges the body comes right behind it.
        await device.fetcher.probe(path, size=index.payload_size, at=len(index.raw) - 1)


def _without_delta(one: ImagePlan, error: Exception) -> ImagePlan:
    why = f"{one.payload.kind}: {error}"
    return replace(one, payload=one.full, passed_over=(*one.passed_over, why))
