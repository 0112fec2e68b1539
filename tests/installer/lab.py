"""The rig of the installer's tests: a clock that does not run, a repository in memory, a device
in a temporary folder.

    lab = Lab(tmp_path)
    one = lab.publish("1.0", 1, image)          # signed with real TUF metadata
    two = lab.publish("2.0", 2, image2, source=image)
    await lab.install()

Images are small and their payloads made by hand, so that a test knows every frame.
"""

import copy
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, compress
from slipstream.delta.digest import Digest
from slipstream.delta.entries import DeltaEntry, FullEntry, ReleaseEntry, dump_entry
from slipstream.delta.frame import Frame, FrameKind, Stream, make_frame
from slipstream.delta.layout import (
    DELTAS_PATTERN,
    chunks_blob,
    delta_path,
    full_path,
    manifest_path,
    payload_blob,
)
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.delta.manifest import (
    BootEntryTemplate,
    ImageEntry,
    Manifest,
    PayloadRef,
    Place,
    dump_manifest,
)
from slipstream.delta.payload import Index, dump_index, parse_index
from slipstream.delta.tree import Tree, tree_of
from slipstream.installer.config import load_config
from slipstream.installer.device import Device, open_device
from slipstream.installer.fetch import NotFound, Unusable
from slipstream.installer.install import InstallResult, install
from slipstream.installer.ports import BootControl
from slipstream.installer.progress import InstallEvent
from tests.installer.boot.fake import FakeBoot

START = datetime(2026, 1, 1, tzinfo=UTC)
SALT = bytes(range(32))
SLOT_BYTES = 4 * CHUNK_BYTES
PIECE_BYTES = 50_000  # of a stream: not a divisor of anything

_KEY = CryptoSigner.generate_ed25519()


class LabClock:
    """Implements ports.Clock; sleeping takes no time."""

    def __init__(self) -> None:
        self.time = START
        self.is_synchronised = False
        self.slept_s: list[float] = []

    def now(self) -> datetime:
        return self.time

    def synchronised(self) -> bool:
        return self.is_synchronised

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.time += timedelta(seconds=seconds)


class LabFetcher:
    """Implements ports.Fetcher on a dictionary. `hook` is called with the path before each piece."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.bytes_sent = 0
        self.streamed: list[tuple[str, int]] = []
        self.hook: Callable[[str], None] = lambda _: None

    async def fetch(self, path: str, *, size_max: int, size: int | None = None) -> bytes:
        self.hook(path)
        data = self._file(path)
        assert len(data) <= size_max, path
        if size is not None and len(data) != size:
            raise Unusable("file of a wrong size", where=path, expected=size, got=len(data))
        return data

    async def probe(self, path: str, *, size: int, at: int = 0) -> None:
        if len(self._file(path)) != size:
            raise Unusable("file of a wrong size", where=path, expected=size)

    async def stream(self, path: str, rng: ByteRange) -> AsyncIterator[bytes]:
        data = self._file(path)[rng.offset : rng.end]
        if len(data) != rng.size:
            raise Unusable("file too short", where=path, expected=f"at least {rng.end}")
        for start in range(0, len(data), PIECE_BYTES):
            self.hook(path)
            piece = data[start : start + PIECE_BYTES]
            self.bytes_sent += len(piece)
            self.streamed.append((path, len(piece)))
            yield piece

    def _file(self, path: str) -> bytes:
        if path not in self.files:
            raise NotFound("no such file", where=path)
        return self.files[path]


@dataclass(frozen=True)
class LabImage:
    """What was published of one image."""

    data: bytes
    tree: Tree
    full: Index
    delta: Index | None


@dataclass(frozen=True)
class LabRelease:
    manifest: Manifest
    raw: bytes
    images: dict[str, LabImage] = field(default_factory=dict)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)


def make_image(seed: int, size: int = 3 * CHUNK_BYTES + 5000) -> bytes:
    """An image of random blocks with a run of zeros in it."""
    data = bytearray(random.Random(seed).randbytes(size))
    data[BLOCK_BYTES : 5 * BLOCK_BYTES] = bytes(4 * BLOCK_BYTES)
    return bytes(data)


def change(image: bytes, *offsets: int) -> bytes:
    """The image with 100 bytes changed at each offset."""
    data = bytearray(image)
    for offset in offsets:
        data[offset : offset + 100] = random.Random(offset).randbytes(100)
    return bytes(data)


def make_payload(
    target: bytes, source: bytes | None, frame_bytes: int | None = None
) -> tuple[Index, bytes]:
    """A payload of frames of 100,000 bytes: copies of what is equal, else data."""
    frames: list[Frame] = []
    body = b""
    step = frame_bytes or (CHUNK_BYTES if source is None else 100_000)
    for offset in range(0, len(target), step):
        data = target[offset : offset + step]
        rng = ByteRange(offset, len(data))
        if source is not None and source[offset : rng.end] == data:
            frames.append(make_frame(FrameKind.COPY, rng, sources=[rng], encoded_offset=len(body)))
            continue
        encoded = compress(Codec.ZSTD, data, 1)
        frames.append(
            make_frame(
                FrameKind.DATA,
                rng,
                encoded_offset=len(body),
                digest=Digest.of(encoded),
                streams=[Stream(Codec.ZSTD, len(encoded), len(data))],
            )
        )
        body += encoded
    size, digest = (0, None) if source is None else (len(source), Digest.of(source))
    raw = dump_index(size, digest, len(target), Digest.of(target), frames)
    return parse_index(raw), raw + body


class Lab:
    """A repository, a device, and what joins them."""

    def __init__(
        self,
        folder: Path,
        *,
        boot: BootControl | None = None,
        settings: str = "",
        slot_bytes: int = SLOT_BYTES,
        real_boot: bool = False,
        static: bool = False,
    ) -> None:
        self.folder = folder
        (folder / "esp" / "EFI").mkdir(parents=True, exist_ok=True)
        self.clock = LabClock()
        self.boots = 0  # how often the device started
        self.files: dict[str, bytes] = {}
        self.fetcher = LabFetcher(self.files)
        self.fake = FakeBoot()
        # None: the adapter that the configuration names, on folder/esp
        self.boot: BootControl | None = None if real_boot else boot or self.fake
        self.releases: dict[str, LabRelease] = {}
        self.make_payload = make_payload  # from the target, and the source or None
        self.evil: bytes | None = None  # what full payloads of root file systems make instead
        self.events: list[InstallEvent] = []
        self._targets: dict[str, TargetFile] = {}
        self._deltas: dict[str, TargetFile] = {}
        self._version = 0
        for slot in "ab":
            path = folder / f"slot-{slot}.img"
            if not path.exists():
                path.write_bytes(bytes(slot_bytes))
        (folder / "cmdline").touch()
        self.config_path = folder / "device.toml"
        text = CONFIG if "[install]" in settings else CONFIG + INSTALL
        self.config_path.write_text(text + settings)
        if static:
            self.make_static()
        self._write_root()
        self._sign()

    # --- the device

    def make_static(self) -> None:
        """No server takes reports or polls: a static repository."""
        text = self.config_path.read_text()
        self.config_path.write_text(text.replace('token_file = "token"\n', ""))

    def slot(self, name: str) -> Path:
        return self.folder / f"slot-{name}.img"

    def device(self) -> Device:
        """The device as a new process sees it: nothing but what is on disk."""
        config = load_config(self.config_path)
        return open_device(
            config,
            clock=self.clock,
            fetcher=self.fetcher,
            boot=self.boot,
            boot_id=f"boot {self.boots}",
        )

    async def install(self, release: str | None = None) -> InstallResult:
        return await install(self.device(), release, self.events.append)

    def reboot(self) -> str | None:
        """Boot what the fake boot loader chooses; the slot."""
        self.boots += 1
        booted = self.fake.boot()
        return None if booted is None else booted.slot

    def fork(self, folder: Path) -> "Lab":
        """The same repository with a copy of the device in another folder."""
        shutil.copytree(self.folder, folder)
        twin = copy.copy(self)
        twin.folder = folder
        twin.config_path = folder / self.config_path.name
        twin.fetcher = LabFetcher(self.files)
        twin.events = []
        return twin

    def preinstall(self, release: LabRelease, slot: str = "a") -> None:
        """Make the device run a release as if a factory had put it there."""
        data = release.images["rootfs"].data
        with self.slot(slot).open("r+b") as file:
            file.write(data)
        root = release.images["rootfs"].tree.tuple.root
        self.fake.preset(slot, release.manifest.counter, root=root)

    def holds(self, slot: str, release: LabRelease) -> bool:
        """Whether the slot holds the release's image, and zeros behind it up to the block's end."""
        data = release.images["rootfs"].data
        whole = -(-len(data) // BLOCK_BYTES) * BLOCK_BYTES
        return self.slot(slot).read_bytes()[:whole] == data.ljust(whole, b"\0")

    def words(self) -> str:
        return "\n".join(event.text for event in self.events if event.text)

    # --- the repository

    def publish(
        self,
        release: str,
        counter: int,
        image: bytes,
        *,
        source: bytes | None = None,
        uki: bytes | None = None,
        kernel: bytes | None = None,
        kernel_source: bytes | None = None,
        **changes: Any,
    ) -> LabRelease:
        """Publish a release of one root file system and a small kernel, or a UKI; sign it."""
        kernel = uki or kernel or f"kernel {release}".encode()
        made = {
            "rootfs": self._publish_image(release, "rootfs", image, source),
            "kernel": self._publish_image(release, "kernel", kernel, kernel_source),
        }
        root = made["rootfs"].tree.tuple.root
        values: dict[str, Any] = {
            "product": "gateway",
            "release": release,
            "counter": counter,
            "floor": 0,
            "channel": "stable",
            "hardware": (),
            "issued": int(START.timestamp()),
            "notes": "",
            "images": tuple(
                ImageEntry(
                    name,
                    Place.PARTITION
                    if name == "rootfs"
                    else Place.LINUX
                    if uki is None
                    else Place.UKI,
                    one.tree.tuple,
                    Digest.of(one.tree.chunk_list),
                    PayloadRef(one.full.digest, len(one.full.raw), one.full.payload_size),
                )
                for name, one in made.items()
            ),
            "boot": BootEntryTemplate(
                f"Gateway {release}", f"roothash={root}" if uki is None else ""
            ),
        }
        manifest = Manifest(**(values | changes))
        raw = dump_manifest(manifest)
        entry = ReleaseEntry(manifest.product, release, counter, manifest.channel)
        self._add(self._targets, manifest_path(release), raw, dump_entry(entry))
        self._sign()
        self.releases[release] = LabRelease(manifest, raw, made)
        return self.releases[release]

    def root_of(self, image: bytes) -> Digest:
        return tree_of([image], SALT).tuple.root

    def _publish_image(
        self, release: str, name: str, data: bytes, source: bytes | None
    ) -> LabImage:
        tree = tree_of([data], SALT)
        made = self.evil if self.evil is not None and name == "rootfs" else data
        full, payload = self.make_payload(made, None)
        self.files[payload_blob(full.digest)] = payload
        self.files[chunks_blob(Digest.of(tree.chunk_list))] = tree.chunk_list
        custom = dump_entry(FullEntry(name, tree.tuple.root))
        self._add(self._targets, full_path(release, name), full.raw, custom)
        delta = None
        if source is not None:
            delta, payload = self.make_payload(data, source)
            self.files[payload_blob(delta.digest)] = payload
            root = self.root_of(source)
            libraries = ", ".join(delta.libraries)
            entry = DeltaEntry(
                name, root, tree.tuple.root, len(payload), delta.memory_bytes, libraries
            )
            path = delta_path(release, name, root)
            self._add(self._deltas, path, delta.raw, dump_entry(entry))
        return LabImage(data, tree, full, delta)

    def _add(
        self, role: dict[str, TargetFile], path: str, raw: bytes, custom: dict[str, Any]
    ) -> None:
        target = TargetFile.from_data(path, raw, ["sha256"])
        target.unrecognized_fields["custom"] = custom
        role[path] = target
        folder, _, name = path.rpartition("/")
        self.files[f"targets/{folder}/{target.hashes['sha256']}.{name}"] = raw

    def _write_root(self) -> None:
        key: Key = _KEY.public_key
        roles = {
            name: Role([key.keyid], 1) for name in ("root", "targets", "snapshot", "timestamp")
        }
        root = Root(
            version=1,
            expires=START + timedelta(days=365),
            keys={key.keyid: key},
            roles=roles,
            consistent_snapshot=True,
        )
        raw = _signed(root)
        self.files["metadata/1.root.json"] = raw
        (self.folder / "root.json").write_bytes(raw)

    def _sign(self) -> None:
        self._version += 1
        version, expires = self._version, START + timedelta(days=30)
        key: Key = _KEY.public_key
        role = DelegatedRole("deltas", [key.keyid], 1, terminating=True, paths=[DELTAS_PATTERN])
        delegations = Delegations({key.keyid: key}, {"deltas": role})
        made = {
            "targets": Targets(version, None, expires, self._targets, delegations),
            "deltas": Targets(version, None, expires, self._deltas),
        }
        meta = {}
        for name, signed in made.items():
            raw = _signed(signed)
            self.files[f"metadata/{version}.{name}.json"] = raw
            meta[f"{name}.json"] = MetaFile.from_data(version, raw, ["sha256"])
        snapshot = _signed(Snapshot(version, None, expires, meta))
        self.files[f"metadata/{version}.snapshot.json"] = snapshot
        file = MetaFile.from_data(version, snapshot, ["sha256"])
        self.files["metadata/timestamp.json"] = _signed(Timestamp(version, None, expires, file))


def _signed(signed: Any) -> bytes:
    metadata = Metadata(signed)
    metadata.sign(_KEY)
    return metadata.to_bytes()


class Killed(BaseException):
    """The process dies here: nothing that catches Exception may go on."""


def survive(work: Callable[[], object]) -> None:
    """Run until it is killed, if it is."""
    with suppress(Killed):
        work()


CONFIG = """\
[device]
id = "device-1"
product = "gateway"
hardware = "x86-64"
state = "state"

[server]
url = "http://127.0.0.1:1/"
root = "root.json"
token_file = "token"

[slots.a]
rootfs = "slot-a.img"
[slots.b]
rootfs = "slot-b.img"

[boot]
esp = "esp"
cmdline = "cmdline"
entry = "selected"

[release]
file = "release.json"
"""
INSTALL = """\

[install]
verity = "initrd"
"""
