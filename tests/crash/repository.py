"""The releases of the stories, and what they are installed on: small images, signed with real TUF
metadata, boot files of some sectors.
"""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.delta.manifest import BootEntryTemplate, ImageEntry, PayloadRef, Place
from slipstream.delta.tree import tree_of
from slipstream.installer.config import Config, load_config
from slipstream.installer.device import Device, open_device
from tests.crash.partitions import (
    NotFound,
    find_root,
    hash_tree,
    is_superblock,
    named_places,
    tables,
)
from tests.crash.record import DISK
from tests.installer.boot.uki import make_uki
from tests.installer.lab import (
    INSTALL,
    SALT,
    Lab,
    LabFetcher,
    LabImage,
    change,
    make_image,
    make_payload,
)
from tests.partition_tables import make_gpt_disk, places

if TYPE_CHECKING:
    from tests.crash.machine import Start

IMAGE_BYTES = CHUNK_BYTES + 61_000  # two chunks, the last one short and not whole blocks
SLOT_BYTES = CHUNK_BYTES + 96 * 1024
TREE_BYTES = 16 * 1024  # superblock, two leaf blocks and the root: all of it
KERNEL_BYTES = 4000
_PLACES = places(SLOT_BYTES, TREE_BYTES)
FRAME_BYTES = 72_000  # of a payload's frames: some in a chunk, and none ends where it does


Read = Callable[[str], bytes]  # the slots' medium of that name, as it stands


@dataclass(frozen=True, slots=True)
class Design:
    """What a device is like.

    `by_root_hash`: the slots are partitions of one disk, each with one for its hash tree, and what
    boots finds them by PARTUUIDs from the root hash; otherwise a slot is a medium of its own.
    `kernel_and_initrd`: it boots by a text file that names both; otherwise from a UKI.
    """

    by_root_hash: bool = False
    kernel_and_initrd: bool = False


PLAIN = Design()
PARTITIONS = Design(by_root_hash=True)
KERNEL = Design(kernel_and_initrd=True)
_INSTALL = """
[install]
verity = "partition"
identity = "gpt"
"""


def region_of(offset: int) -> str:
    """What stands at a byte of the disk. To Linux each partition is a block device of its own, and so is
    the disk: syncing one says nothing of the others.
    """
    for name, (begin, size) in _PLACES.items():
        if begin <= offset < begin + size:
            return name.rpartition("-")[0]
    return "table"


def region_synced(source: str) -> str:
    """Which of these a sync reaches, by who asks for it."""
    if "gpt_disk.py" in source:
        return "table"
    return "rootfs-verity" if "hash_area.py" in source else "rootfs"


class Dead(Exception):
    """The device does not boot a whole release: what must never be."""


class _CountingFetcher(LabFetcher):
    """Says how many bytes of payloads came so far."""

    def __init__(self, files: dict[str, bytes], on_bytes: Callable[[int], None]) -> None:
        super().__init__(files)
        self._on_bytes = on_bytes

    async def stream(self, path: str, rng: ByteRange) -> AsyncIterator[bytes]:
        async for piece in super().stream(path, rng):
            self._on_bytes(self.bytes_sent)
            yield piece


class Repository:
    """What is on offer, up to a release at a time; and which bytes are whose."""

    def __init__(self, design: Design = PLAIN) -> None:
        self.design = design
        self._folder = tempfile.TemporaryDirectory(prefix="repository-")
        self._lab = Lab(Path(self._folder.name), real_boot=True, slot_bytes=SLOT_BYTES)
        self._lab.make_payload = partial(make_payload, frame_bytes=FRAME_BYTES)
        if design.by_root_hash:
            make_gpt_disk(self._disk, SLOT_BYTES, TREE_BYTES)
            self._lab.config_path.write_text(_on_one_disk(self._lab.config_path.read_text()))
        self.files: dict[str, bytes] = {}
        self.images: dict[int, bytes] = {}
        self.boot_files: dict[
            int, dict[str, bytes]
        ] = {}  # in the order in which an entry names them
        self.manifests: dict[int, Digest] = {}
        self.floors: dict[int, int] = {}
        self._padded: dict[int, bytes] = {}  # images, with zeros up to the end of the last block
        self._trees: dict[int, bytes] = {}
        self._roots: dict[str, int] = {}

    def close(self) -> None:
        """Nobody lays a device any more."""
        self._folder.cleanup()

    def publish(self, counter: int, *, delta: bool = False) -> None:
        """Release `counter`.0; with a delta from the one before."""
        image = change(make_image(1, IMAGE_BYTES), BLOCK_BYTES * 17 * counter, 300_000 + counter)
        # Of the same blocks, but shorter than the last one: behind the end stand bytes of that.
        image += bytes([counter]) * 100 * (4 - counter)
        source = self.images[counter - 1] if delta else None
        root = tree_of([image], SALT).tuple.root
        cmdline = f"roothash={root} gpt panic=10"
        kernel = hashlib.shake_256(b"%d" % counter).digest(KERNEL_BYTES)
        if self.design.kernel_and_initrd:
            boot = {"linux": kernel, "initrd": kernel[::-1] + kernel}
        else:
            boot = {"uki": make_uki(f"{counter}.0", cmdline=cmdline, kernel=kernel)}
        lab = self._lab
        made = {"rootfs": lab._publish_image(f"{counter}.0", "rootfs", image, source)}
        for name, data in boot.items():
            made[name] = lab._publish_image(f"{counter}.0", name, data, None)
        published = lab.publish(
            f"{counter}.0",
            counter,
            image,
            source=source,
            floor=counter - 1,
            images=tuple(
                _entry(name, Place.PARTITION if name == "rootfs" else Place(name), one)
                for name, one in made.items()
            ),
            boot=BootEntryTemplate(
                f"Gateway {counter}", cmdline if self.design.kernel_and_initrd else ""
            ),
        )
        self.files = dict(lab.files)
        self.images[counter], self.boot_files[counter] = image, boot
        whole = -(-len(image) // BLOCK_BYTES) * BLOCK_BYTES
        self._padded[counter] = image.ljust(whole, b"\0")
        self._trees[counter] = hash_tree(self._padded[counter], SALT)
        self._roots[root.hex] = counter
        self.manifests[counter] = published.digest
        self.floors[counter] = counter - 1

    # --- the device's side

    def lay(self, folder: Path) -> None:
        """What the running release carries: configuration and the first root."""
        (folder / "device.toml").write_text(self._lab.config_path.read_text())
        (folder / "root.json").write_bytes(self.files["metadata/1.root.json"])
        (folder / "state").mkdir(exist_ok=True)
        (folder / "cmdline").touch()

    def fetcher(self, on_bytes: Callable[[int], None]) -> LabFetcher:
        return _CountingFetcher(self.files, on_bytes)

    def device(self, folder: Path, fetcher: LabFetcher) -> Device:
        """The device as a new process sees it: nothing but what is on disk."""
        config = _config_of(folder / "device.toml", self.design)
        # "": no boots are told apart, so each reboot counts
        return open_device(config, clock=self._lab.clock, fetcher=fetcher, boot_id="")

    @property
    def _disk(self) -> Path:
        return Path(self._folder.name) / DISK

    def blank(self) -> dict[str, bytes]:
        """The slots' media as they leave the factory."""
        if self.design.by_root_hash:
            return {DISK: self._disk.read_bytes()}
        return {f"slot-{name}.img": bytes(SLOT_BYTES) for name in "ab"}

    # --- the judge's side

    def counter_of(self, boots: tuple[bytes, ...]) -> int:
        """Which release these boot files are; 0 for none."""
        known = self.boot_files.items()
        return next((n for n, files in known if tuple(files.values()) == boots), 0)

    def check_start(self, start: "Start | None", read: Read) -> "Start":
        """What is started, and what else is listed, is a release, whole. Raises Dead."""
        if start is None:
            raise Dead("the boot loader has nothing to start")
        for name, cmdline, boots in start.menu:
            counter = self.counter_of(boots)
            first = "is started" if name == start.path.rpartition("/")[2] else "is listed"
            if not counter:
                raise Dead(f"{name} {first} and is not whole")
            slot = name[4:5]
            if slot not in "ab" or not name.startswith(f"{counter:04d}"):
                raise Dead(f"{name} {first}, of release {counter} without its counter")
            if not any(f"roothash={root}" in cmdline.split() for root in self._roots_of(counter)):
                raise Dead(f"{name} {first}, with the command line {cmdline}")
            if self.design.by_root_hash:
                try:
                    found = find_root(read(DISK), cmdline)
                except NotFound as error:
                    raise Dead(f"{name} {first}, and {error}") from error
                if found != (_PLACES[f"rootfs-{slot}"][0], _PLACES[f"rootfs-verity-{slot}"][0]):
                    raise Dead(f"{name} {first}, and its partitions are not those of slot {slot}")
            # Else the entry's name says which slot it is.
            if self.whole(slot, read) != counter:
                raise Dead(f"{name} {first}, and slot {slot} does not hold release {counter}")
        self._check_names(read)
        return start

    def _roots_of(self, counter: int) -> Iterator[str]:
        return (root for root, known in self._roots.items() if known == counter)

    def _check_names(self, read: Read) -> None:
        """What can be found by a release's root hash holds it, whole. Raises Dead."""
        if not self.design.by_root_hash:
            return
        slot_at = {_PLACES[f"rootfs-{slot}"][0]: slot for slot in "ab"}
        for counter, offset in named_places(read(DISK), self._roots):
            if self.whole(slot_at.get(offset, "a"), read) != counter:
                raise Dead(f"a partition is named by the root hash of release {counter}, not whole")

    def slot(self, slot: str, read: Read) -> bytes:
        """What stands in the place of a root file system."""
        if not self.design.by_root_hash:
            return read(f"slot-{slot}.img")
        return self._part(f"rootfs-{slot}", read)

    def _part(self, name: str, read: Read) -> bytes:
        offset, size = _PLACES[name]
        return read(DISK)[offset : offset + size]

    def whole(self, slot: str, read: Read) -> int:
        """Which release a slot holds, whole blocks, and its hash tree where that has a place of its
        own; 0 for none.

        Bytes that are equal have equal root hashes: `publish` computed the signed one from these.
        """
        raw = self.slot(slot, read)
        known = self._padded.items()
        counter = next((number for number, image in known if raw.startswith(image)), 0)
        if counter and self.design.by_root_hash:
            tree = self._part(f"rootfs-verity-{slot}", read)
            blocks = len(self._padded[counter]) // BLOCK_BYTES
            stands = tree[BLOCK_BYTES:].startswith(self._trees[counter])
            if not stands or not is_superblock(tree, blocks, SALT):
                return 0
        return counter

    def check_tables(self, read: Read) -> None:
        """At rest both copies of the partition table are valid, and the same. Raises Dead."""
        if self.design.by_root_hash:
            primary, backup = tables(read(DISK))
            if primary is None or primary != backup:
                raise Dead("the copies of the partition table are not the same")


def _on_one_disk(config: str) -> str:
    for slot in "ab":
        rows = "".join(
            f'{image} = {{ path = "{DISK}", offset = {offset}, size = {size} }}\n'
            for image in ("rootfs", "rootfs-verity")
            for offset, size in [_PLACES[f"{image}-{slot}"]]
        )
        config = config.replace(f'rootfs = "slot-{slot}.img"\n', rows)
    return config.replace(INSTALL, _INSTALL)


@cache
def _config_of(path: Path, _: Design) -> Config:
    return load_config(path)


def _entry(name: str, place: Place, one: LabImage) -> ImageEntry:
    return ImageEntry(
        name,
        place,
        one.tree.tuple,
        Digest.of(one.tree.chunk_list),
        PayloadRef(one.full.digest, len(one.full.raw), one.full.payload_size),
    )
