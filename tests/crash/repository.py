"""The releases of the stories: small images, signed with real TUF metadata, UKIs of some sectors."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
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
from tests.installer.boot.uki import make_uki
from tests.installer.lab import SALT, Lab, LabFetcher, LabImage, change, make_image, make_payload

if TYPE_CHECKING:
    from tests.crash.machine import Start

IMAGE_BYTES = CHUNK_BYTES + 61_000  # two chunks, the last one short and not whole blocks
SLOT_BYTES = CHUNK_BYTES + 96 * 1024
UKI_BYTES = 4000
FRAME_BYTES = 72_000  # of a payload's frames: some in a chunk, and none ends where it does


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

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="repository-")
        self._lab = Lab(Path(self._folder.name), real_boot=True, slot_bytes=SLOT_BYTES)
        self._lab.make_payload = partial(make_payload, frame_bytes=FRAME_BYTES)
        self.files: dict[str, bytes] = {}
        self.images: dict[int, bytes] = {}
        self.ukis: dict[int, bytes] = {}
        self.manifests: dict[int, Digest] = {}
        self.floors: dict[int, int] = {}
        self._padded: dict[int, bytes] = {}  # images, with zeros up to the end of the last block

    def close(self) -> None:
        """Nobody lays a device any more."""
        self._folder.cleanup()

    def publish(self, counter: int, *, delta: bool = False) -> None:
        """Release `counter`.0; with a delta from the one before."""
        image = change(make_image(1, IMAGE_BYTES), BLOCK_BYTES * 17 * counter, 300_000 + counter)
        image += bytes([counter]) * 100
        source = self.images[counter - 1] if delta else None
        root = tree_of([image], SALT).tuple.root
        uki = make_uki(f"{counter}.0", cmdline=f"roothash={root} gpt panic=10",
                       kernel=hashlib.shake_256(b"%d" % counter).digest(UKI_BYTES))  # fmt: skip
        lab = self._lab
        made = {
            "rootfs": lab._publish_image(f"{counter}.0", "rootfs", image, source),
            "uki": lab._publish_image(f"{counter}.0", "uki", uki, None),
        }
        published = lab.publish(
            f"{counter}.0",
            counter,
            image,
            source=source,
            floor=counter - 1,
            images=tuple(
                _entry(name, Place.UKI if name == "uki" else Place.PARTITION, one)
                for name, one in made.items()
            ),
            boot=BootEntryTemplate(f"Gateway {counter}", ""),
        )
        self.files = dict(lab.files)
        self.images[counter], self.ukis[counter] = image, uki
        whole = -(-len(image) // BLOCK_BYTES) * BLOCK_BYTES
        self._padded[counter] = image.ljust(whole, b"\0")
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
        config = _config_of(folder / "device.toml")
        # "": no boots are told apart, so each reboot counts
        return open_device(config, clock=self._lab.clock, fetcher=fetcher, boot_id="")

    # --- the judge's side

    def counter_of(self, uki: bytes) -> int:
        """Which release a UKI is of; 0 for none."""
        return next((number for number, one in self.ukis.items() if one == uki), 0)

    def check_start(self, start: "Start | None", slot_of: Callable[[str], bytes]) -> "Start":
        """What is started, and what else is listed, is a release, whole. Raises Dead."""
        if start is None:
            raise Dead("the boot loader has nothing to start")
        for name, uki in start.menu:
            counter = self.counter_of(uki)
            first = "is started" if name == start.path.rpartition("/")[2] else "is listed"
            if not counter:
                raise Dead(f"{name} {first} and is not whole")
            # Until partitions are found by the root hash, the entry's name says which slot that is.
            slot = name[4:5]
            if slot not in "ab" or not name.startswith(f"{counter:04d}"):
                raise Dead(f"{name} {first}, of release {counter} without its counter")
            if self.whole(slot_of(f"slot-{slot}.img")) != counter:
                raise Dead(f"{name} {first}, and slot {slot} does not hold release {counter}")
        return start

    def whole(self, raw: bytes) -> int:
        """Which release a slot holds, whole blocks; 0 for none.

        Bytes that are equal have equal root hashes: `publish` computed the signed one from these.
        """
        for counter, image in self._padded.items():
            if raw.startswith(image):
                return counter
        return 0


@cache
def _config_of(path: Path) -> Config:
    return load_config(path)


def _entry(name: str, place: Place, one: LabImage) -> ImageEntry:
    return ImageEntry(
        name,
        place,
        one.tree.tuple,
        Digest.of(one.tree.chunk_list),
        PayloadRef(one.full.digest, len(one.full.raw), one.full.payload_size),
    )
