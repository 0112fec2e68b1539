"""All of a release or nothing: what must stand on the device before its boot entry may be seen.

A release is several things at once: the root file system or usr, its hash tree, the kernel. Were
one of them left out and the entry published all the same, the device would boot a mixture. So every
part is noted when it was read back from the medium, and one digest over all of them, made from the
signed manifest, is compared before anything is staged and again before the commit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.delta.manifest import Manifest, Place
from slipstream.installer.config import Verity, tree_name


def parts_of(manifest: Manifest, verity: Verity) -> dict[str, Digest]:
    """The parts of a release on this device, by name, with the root hash that each must give.

    A hash tree in a partition of its own is a part: its root is its image's.
    """
    parts = {}
    for image in manifest.images:
        parts[image.name] = image.tree.root
        if image.place is Place.PARTITION and verity is Verity.PARTITION:
            parts[tree_name(image.name)] = image.tree.root
    return parts


def set_digest(parts: Mapping[str, Digest]) -> Digest:
    """One digest of a set of parts: SHA-256 of lines "NAME ROOT", sorted."""
    return Digest.of("".join(f"{name} {parts[name]}\n" for name in sorted(parts)).encode())


@dataclass(slots=True)
class ReleaseSet:
    """The parts that a release needs, and those that were read back in this install."""

    wanted: Mapping[str, Digest]
    standing: dict[str, Digest] = field(default_factory=dict)

    def stands(self, name: str, root: Digest) -> None:
        """A part was read back from the medium and gives this root."""
        self.standing[name] = root

    def check_complete(self, slot: str) -> None:
        """Raises DeviceFault unless every part stands, and nothing else."""
        expected, got = set_digest(self.wanted), set_digest(self.standing)
        if expected != got:
            differing = sorted(
                name
                for name in {*self.wanted, *self.standing}
                if self.wanted.get(name) != self.standing.get(name)
            )
            raise DeviceFault(
                "not all of the release stands in the slot, so it is not made bootable",
                where=f"slot {slot}: {', '.join(differing)}",
                expected=f"set {expected}",
                got=got,
                hint="Install again: what stands is not written twice",
            )
