"""The plan of an install: what is fetched, what is written, and every reason not to.

Pure: a manifest, the facts of the device and the payloads on offer become a `Plan`, or an
error that says why not. prepare.py gathers the input; nothing here reads or writes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, assert_never

from slipstream.delta.digest import Digest
from slipstream.delta.entries import DeltaEntry
from slipstream.delta.errors import DeviceFault, NothingToDo, Rejected, RolledBack, WrongDevice
from slipstream.delta.layout import delta_path, full_path
from slipstream.delta.limits import MIB
from slipstream.delta.manifest import ImageEntry, Manifest, Place
from slipstream.installer.boot.command_line import check_trees
from slipstream.installer.config import Verity, tree_name
from slipstream.installer.hash_area import hash_area_end, hash_partition_size
from slipstream.installer.slots import Denied

# Interpreter, libraries and the pipeline's own buffers; the rest of [install] memory is for
# decoding. Measured with benches/install.py.
BASE_MEMORY_BYTES = 56 * MIB
STEPS = (
    "retire the boot entry of slot {slot}, and the names of its partitions if it has any",
    "write what is missing into slot {slot}, each chunk verified before",
    "read slot {slot} back and compare the roots",
    "stage the boot files, hidden",
    "publish the boot entry by one rename; a power cut before it boots {active}",
    "reboot into the trial of {release}",
)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the plan must know of the device.

    `sources` gives for an image's name the roots that the active slot may hold of it, `releases` the
    versions that such roots are known to be of;
    `sizes` the bytes of the target slot's partitions; `libraries` what can pack here, by name and
    exact version.
    """

    product: str
    hardware: str
    channel: str
    floor: int
    active: str | None
    target: str
    counter: int | None
    root: Digest | None
    sources: Mapping[str, tuple[Digest, ...]]
    sizes: Mapping[str, int]
    denied: tuple[Denied, ...]
    memory_bytes: int
    libraries: frozenset[str]
    verity: Verity = Verity.NONE
    releases: Mapping[Digest, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PayloadChoice:
    """A payload on offer: its index's target path, and bytes of the whole payload.

    `source` is the root of the image it starts from; None for a full payload. `release` is the
    version that the image is known by, if it is.
    """

    path: str
    payload_bytes: int
    source: Digest | None
    release: str | None = None

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return "full" if self.source is None else _delta_words(self.source, self.release)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image: the payload to use, and the full one to fall back to.

    `passed_over` says in words which smaller payloads this device cannot use, and why.
    """

    image: ImageEntry
    payload: PayloadChoice
    full: PayloadChoice
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What an install would do."""

    manifest: Manifest
    manifest_raw: bytes
    active: str | None
    slot: str
    images: tuple[ImagePlan, ...]
    bare: frozenset[str] = frozenset()  # partition images that will have no hash tree

    @property
    def digest(self) -> Digest:
        """SHA-256 of the manifest."""
        return Digest.of(self.manifest_raw)

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch at most: what already stands in the slot is not fetched."""
        return sum(one.payload.payload_bytes for one in self.images)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Which smaller payloads are not used, and why, for all images."""
        return tuple(
            f"not used: {one.image.name}: {why}" for one in self.images for why in one.passed_over
        )

    @property
    def boot_bytes(self) -> int:
        """Bytes that the boot files take on the boot partition."""
        images = [one.image for one in self.images]
        return sum(one.tree.image_size for one in images if one.place is not Place.PARTITION)

    def passing_over(self, why: str) -> Self:
        """The same plan, which says why deltas that may be on offer are not known."""
        images = (replace(one, passed_over=(*one.passed_over, why)) for one in self.images)
        return replace(self, images=tuple(images))

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            "release": self.manifest.release,
            "counter": self.manifest.counter,
            "manifest": self.digest.hex,
            "slot": self.slot,
            "active": self.active,
            "fetch_bytes_max": self.fetch_bytes,
            "images": [
                {
                    "name": one.image.name,
                    "place": one.image.place,
                    "image_bytes": one.image.tree.image_size,
                    "root": one.image.tree.root.hex,
                    "payload": "full" if one.payload.source is None else "delta",
                    "source_root": None if one.payload.source is None else one.payload.source.hex,
                    "source_release": one.payload.release,
                    "payload_bytes": one.payload.payload_bytes,
                    "passed_over": list(one.passed_over),
                }
                for one in self.images
            ],
            "steps": list(self.steps()),
        }

    def to_words(self) -> str:
        """The plan for people, one line each."""
        release, counter = self.manifest.release, self.manifest.counter
        active = "nothing runs" if self.active is None else f"slot {self.active} is not touched"
        lines = [
            f"Release {release} (counter {counter}) into slot {self.slot}; {active}",
            f"Fetch at most {self.fetch_bytes:,} bytes",
        ]
        for one in self.images:
            lines.append(
                f"  {one.image.name}: {one.payload.kind}, {one.payload.payload_bytes:,} bytes"
                f" for {one.image.tree.image_size:,}"
            )
            lines += [f"    not used: {why}" for why in one.passed_over]
        lines += [f"{number}. {step}" for number, step in enumerate(self.steps(), 1)]
        return "\n".join(lines)

    def steps(self) -> tuple[str, ...]:
        """What happens, in order."""
        release = self.manifest.release
        active = "what booted before" if self.active is None else f"slot {self.active}"
        return tuple(step.format(slot=self.slot, active=active, release=release) for step in STEPS)


def plan_install(
    manifest: Manifest, raw: bytes, facts: DeviceFacts, deltas: Mapping[str, DeltaEntry]
) -> Plan:
    """The plan for a manifest, or why not.

    `deltas` gives the deltas on offer by target path. Raises NothingToDo, RolledBack,
    WrongDevice, Rejected.
    """
    _check_device(manifest, facts)
    _check_channel(manifest, facts)
    _check_counter(manifest, raw, facts)
    _check_boots(manifest)
    _check_images(manifest, facts)
    bare = bare_images(manifest, facts.verity, facts.sizes)
    check_trees(manifest, bare)
    images = tuple(_plan_image(manifest, image, facts, deltas) for image in manifest.images)
    return Plan(manifest, raw, facts.active, facts.target, images, bare)


def choose_target(slots: Collection[str], active: str | None, *, entries: int) -> str:
    """The slot to write: the first by name that is not active.

    Raises DeviceFault when the active slot is not known although boot entries are there: it
    might be the one written. With no entry at all this is the first install on a device.
    """
    if active not in slots and (active is not None or entries):
        raise DeviceFault(
            "the running slot is not known",
            where="boot control",
            expected=" or ".join(sorted(slots)),
            got=active,
            hint="Boot an entry of Slipstream, or check the section [boot] of the configuration",
        )
    return next(name for name in sorted(slots) if name != active)


def _check_device(manifest: Manifest, facts: DeviceFacts) -> None:
    if manifest.product != facts.product:
        raise WrongDevice(
            "the release is for another product",
            where=f"release {manifest.release}",
            expected=facts.product,
            got=manifest.product,
        )
    if manifest.hardware and facts.hardware not in manifest.hardware:
        raise WrongDevice(
            "the release is for other hardware",
            where=f"release {manifest.release}",
            expected=facts.hardware,
            got=", ".join(manifest.hardware),
        )


def _check_channel(manifest: Manifest, facts: DeviceFacts) -> None:
    # What the server offers is signed by nobody: it must not lead a device into another line.
    if manifest.channel != facts.channel:
        raise WrongDevice(
            "the release is of another channel",
            where=f"release {manifest.release}",
            expected=facts.channel,
            got=manifest.channel,
            hint="To follow that one, set [device] channel",
        )


def _check_counter(manifest: Manifest, raw: bytes, facts: DeviceFacts) -> None:
    digest = Digest.of(raw)
    if manifest.counter < facts.floor:
        raise RolledBack(
            "the release is older than this device accepts",
            where=f"release {manifest.release}",
            expected=f"a counter of at least {facts.floor}",
            got=manifest.counter,
        )
    if facts.counter is not None and manifest.counter < facts.counter:
        # The boot loader starts the highest counter: this one would never be tried.
        raise RolledBack(
            "the release is older than the running one",
            where=f"release {manifest.release}",
            expected=f"a counter of at least {facts.counter}",
            got=manifest.counter,
            hint="To go back to the other slot: slipstream device rollback",
        )
    if manifest.counter == facts.counter:
        roots = [image.tree.root for image in manifest.images if image.place is Place.PARTITION]
        if facts.root is None or facts.root in roots:
            raise NothingToDo(f"release {manifest.release} runs already")
        raise Rejected(
            "another release runs with the same counter",
            where=f"release {manifest.release}",
            expected=" or ".join(root.hex for root in roots),
            got=facts.root,
            hint="Publish with a higher counter",
        )
    for denied in facts.denied:
        if denied.manifest == digest or denied.counter == manifest.counter:
            raise Rejected(
                "the release was tried on this device and is not tried again",
                where=f"release {manifest.release}",
                got=denied.reason,
                hint="Publish a newer release",
            )


def _check_boots(manifest: Manifest) -> None:
    """Found out at the end of an install, the other slot's boot entry would be gone for nothing."""
    if not any(image.place in (Place.UKI, Place.LINUX) for image in manifest.images):
        raise Rejected(
            "the release has nothing that boots",
            where=f"release {manifest.release}",
            expected="a uki or a linux image",
            got=", ".join(image.name for image in manifest.images),
        )


def _check_images(manifest: Manifest, facts: DeviceFacts) -> None:
    for image in manifest.images:
        if image.place is not Place.PARTITION:
            continue
        size = facts.sizes.get(image.name)
        if size is None:
            raise WrongDevice(
                f"slot {facts.target} has no partition for the image {image.name!r}",
                where=f"release {manifest.release}",
                expected=", ".join(sorted(facts.sizes)),
            )
        if image.tree.image_size > size:
            raise WrongDevice(
                "the image is larger than the partition",
                where=f"{facts.target}/{image.name}",
                expected=f"at most {size} bytes",
                got=image.tree.image_size,
            )
        if facts.verity is Verity.PARTITION:
            _check_tree(manifest, image, facts)


def _check_tree(manifest: Manifest, image: ImageEntry, facts: DeviceFacts) -> None:
    name = tree_name(image.name)
    if any(other.name == name for other in manifest.images):
        raise WrongDevice(
            f"the release brings {name}, which this device computes itself",
            where=f"release {manifest.release}",
            hint='Leave that image out, or [install] verity = "partition"',
        )
    needed = hash_partition_size(image.tree)
    if facts.sizes.get(name, 0) < needed:
        raise WrongDevice(
            "the hash tree is larger than its partition",
            where=f"{facts.target}/{name}",
            expected=f"at least {needed} bytes",
            got=facts.sizes.get(name, "no such partition"),
        )


def bare_images(manifest: Manifest, verity: Verity, sizes: Mapping[str, int]) -> frozenset[str]:
    """The partition images behind or beside which no hash tree will stand. `sizes` in bytes, by the
    name of the partition."""
    names = {image.name for image in manifest.images}
    images = [image for image in manifest.images if image.place is Place.PARTITION]
    match verity:
        case Verity.PARTITION | Verity.INITRD:
            bare: Iterable[str] = ()
        case Verity.APPEND:
            bare = (i.name for i in images if hash_area_end(i.tree) > sizes.get(i.name, 0))
        case Verity.NONE:
            bare = (i.name for i in images if tree_name(i.name) not in names)
        case _:
            assert_never(verity)
    return frozenset(bare)


def _plan_image(
    manifest: Manifest,
    image: ImageEntry,
    facts: DeviceFacts,
    deltas: Mapping[str, DeltaEntry],
) -> ImagePlan:
    full = PayloadChoice(
        full_path(manifest.release, image.name), image.full.payload_size, source=None
    )
    best = full
    unusable: list[tuple[int, str]] = []
    for source in facts.sources.get(image.name, ()):
        path = delta_path(manifest.release, image.name, source)
        entry = deltas.get(path)
        if entry is None or (entry.source_root, entry.target_root) != (source, image.tree.root):
            continue  # 16 digits of the root name the file; the whole root must be the same
        release = facts.releases.get(source)
        why = _why_unusable(entry, facts)
        if why:
            unusable.append((entry.payload_bytes, f"{_delta_words(source, release)}: {why}"))
        elif entry.payload_bytes < best.payload_bytes:
            best = PayloadChoice(path, entry.payload_bytes, source, release)
    passed_over = tuple(words for size, words in unusable if size < best.payload_bytes)
    return ImagePlan(image, best, full, passed_over)


def _delta_words(source: Digest, release: str | None) -> str:
    return f"delta from {source.hex[:16] if release is None else f'release {release}'}"


def _why_unusable(entry: DeltaEntry, facts: DeviceFacts) -> str:
    """What the delta needs and this device lacks, in words; "" if nothing."""
    missing = sorted(entry.needs - facts.libraries)
    if missing:
        return f"it needs {', '.join(missing)}, which this device does not have"
    memory = entry.memory_bytes + BASE_MEMORY_BYTES
    if memory > facts.memory_bytes:
        return (
            f"it needs {memory / MIB:.1f} MiB of memory;"
            f" [install] memory allows {facts.memory_bytes / MIB:.1f} MiB"
        )
    return ""
