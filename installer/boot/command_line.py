"""The kernel command line of a release, checked against its signed manifest before it is staged.

What it says is what the initrd mounts: a root hash of another image, or none, is found out here
and not at the first boot. The command line of a unified kernel image is a part of the signed file:
it is read, never changed.

Source: kernel-command-line(7), systemd-veritysetup-generator(8) for roothash= and usrhash=; Linux,
Documentation/admin-guide/kernel-parameters.txt for gpt.
"""

from collections.abc import Collection, Iterable

from slipstream.delta.cmdline import ROOT_OPTIONS, kernel_words, root_option, root_words
from slipstream.delta.errors import Rejected, WrongDevice
from slipstream.delta.manifest import Manifest, Place
from slipstream.installer.boot.chooser import read_entry
from slipstream.installer.boot.entry import Suffix
from slipstream.installer.ports import BootFiles

_REBUILD = (
    "Build the release's boot files again: `slipstream repo root-hash` says what they must name"
)


def command_line_of(boot: BootFiles) -> str:
    """The command line that a release boots with. Raises Rejected for a UKI that cannot be read."""
    uki = boot.files.get(Place.UKI)
    if uki is None:
        return boot.options
    listed = read_entry(uki.parent, uki, f"{uki.name}{Suffix.UKI}")
    if listed is None:
        raise Rejected(
            "boot file is not one that systemd-boot starts",
            where=uki,
            expected="a unified kernel image with .osrel, .cmdline and .linux",
            hint="Build the release's boot file again",
        )
    return listed.cmdline


def check_trees(manifest: Manifest, bare: Collection[str]) -> None:
    """Refuse a UKI before it is here, if this device has no hash tree for what it must name.

    `bare`: the images behind or beside which no hash tree will stand. Raises WrongDevice.
    """
    if any(image.place is Place.UKI for image in manifest.images):
        names = (i.name for i in manifest.images if root_option(i.name))
        refuse_bare(f"release {manifest.release}", names, bare)


def check_command_line(
    cmdline: str, manifest: Manifest, *, gpt: bool, bare: Collection[str] = ()
) -> None:
    """Refuse a command line that does not boot what the manifest signs.

    rootfs needs its roothash=, usr its usrhash=, and neither may name another image's, or one that
    is `bare`, as check_trees has it. With `gpt` the word of that name must be there too. Raises
    Rejected.
    """
    words = root_words(cmdline)
    roots = {i.name: i.tree.root.hex for i in manifest.images if i.place is Place.PARTITION}
    where = f"release {manifest.release}: kernel command line"
    for option in ROOT_OPTIONS.values():
        found = [word for word in words if word.option == option]
        owners = [name for name in roots if root_option(name) == option]
        wanted = {roots[name] for name in owners} or set(roots.values())
        wrong = [word for word in found if word.value not in wanted]
        if wrong or (owners and not any(word.certain for word in found)):
            raise Rejected(
                f"it does not name the root hash of {' or '.join(owners or roots) or 'any image'}",
                where=where,
                expected=" or ".join(f"{option}={root}" for root in sorted(wanted))
                or f"no {option}=",
                got=str(wrong[0])[:80] if wrong else f"no {option}=",
                hint=_REBUILD,
            )
    named = {word.value for word in words}
    refuse_bare(
        f"release {manifest.release}", (name for name, root in roots.items() if root in named), bare
    )
    if gpt and roots and "gpt" not in kernel_words(cmdline):
        raise Rejected(
            "it lacks the word gpt: with a torn primary partition table Linux would find none of "
            "its partitions",
            where=where,
            expected='gpt, as [install] identity = "gpt" needs it',
            got=cmdline[:200],
            hint="Add gpt to the command line and build and sign the boot files again; an installer "
            "never changes a signed file",
        )


def refuse_bare(release: str, names: Iterable[str], bare: Collection[str]) -> None:
    """Refuse a release that opens these images by their root hashes if one is `bare`. `release` says
    which it is. Raises WrongDevice."""
    for name in names:
        if name in bare:
            raise WrongDevice(
                f"the release opens {name} by its root hash, and this device would have no hash tree "
                "for it: it would not boot",
                where=release,
                expected='[install] verity = "partition" with '
                f'{name}-verity in each slot, or "append" with room behind the image',
                got="no hash tree",
                hint='For systemd in the initrd: "partition" and identity = "gpt". If the initrd makes '
                'the tree itself or needs none: verity = "initrd". docs/device.md',
            )
