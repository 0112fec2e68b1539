"""What a release boots from, looked into before it is signed.

A device finds out only after the download that a unified kernel image cannot work. Here it costs
nothing. Files are read and never changed: a signed image goes out byte for byte. What the firmware
and the kernel make of them is not judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from slipstream.delta.cmdline import RootWord, root_words
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.limits import CMDLINE_BYTES_MAX
from slipstream.delta.manifest import Manifest, Place
from slipstream.delta.os_release import MenuKey, compare_menu_keys, parse_menu_key
from slipstream.delta.pe import HEADER_BYTES_MAX, first_section, parse_sections
from slipstream.server.cmdline import judge_cmdline
from slipstream.server.secure_boot import check_signature, is_signed

# The kernel, its command line, what the menu sorts by.
UKI_SECTIONS = (".linux", ".cmdline", ".osrel")


@dataclass(frozen=True, slots=True)
class BootFiles:
    """How a release boots: `notes` for its publisher, `key` that the boot menu sorts its UKI by."""

    notes: tuple[str, ...]
    key: MenuKey | None = None


def check_boot_files(
    manifest: Manifest,
    paths: Mapping[str, Path],
    *,
    certificates: Sequence[x509.Certificate] = (),
    earlier: Mapping[str, MenuKey] | None = None,
    first: bool = False,
) -> BootFiles:
    """How the release boots. `paths` gives the file of every image.

    `certificates`: the UKI must be signed by one of them, where there are any. `earlier`: the keys
    of published releases that this one is to follow, by version. `first`: nothing is published, so
    the publisher may not know yet what devices need.

    Raises UsageError for a UKI that lacks a section, whose command line names a root hash that no
    partition image of the release has, or that would not stand before those that it follows;
    SignatureError for one without a valid signature.
    """
    places = {image.place: image for image in manifest.images}
    uki = places.get(Place.UKI)
    if certificates and uki is None and Place.LINUX in places:
        raise UsageError(
            "certificates for UKIs are given, and the release boots a kernel and an initrd",
            where=f"release {manifest.release}",
            expected="an image uki",
            hint="No signature covers an initrd and a command line that stand beside the kernel",
        )
    if not manifest.images:
        return BootFiles(())  # artifacts alone: what boots is their updater's business
    if uki is None and Place.LINUX not in places:
        return BootFiles(
            ("neither a uki nor a linux image: a device with systemd-boot refuses this release",)
        )
    if uki is None:
        return BootFiles(())
    path = paths[uki.name]
    texts = _texts(path)
    if certificates:
        check_signature(path, certificates)
    key = parse_menu_key(texts[".osrel"])
    notes = _judge_order(path, key, earlier or {})
    cmdline = texts[".cmdline"].rstrip(b"\0\n").decode(errors="replace")
    roots = {i.tree.root.hex: i.name for i in manifest.images if i.place is Place.PARTITION}
    named = root_words(cmdline)
    for word in named:
        if word.value not in roots:
            raise UsageError(
                "the UKI's command line names a root hash that no image of the release has",
                where=path,
                expected=" or ".join(f"{root} ({name})" for root, name in sorted(roots.items())),
                got=word.value[:80],
                hint="slipstream repo uki makes one that names them",
            )
    if roots and not named:
        notes.append(
            "the UKI's command line has no roothash=: nothing ties the kernel to its images"
        )
    if first:
        notes += _needs_of_devices(manifest, named)
    notes += judge_cmdline(cmdline)
    if not certificates and is_signed(path):
        notes.append("the UKI is signed, and its signature was not checked: --uki-cert")
    return BootFiles(tuple(notes), key)


def _needs_of_devices(manifest: Manifest, named: Sequence[RootWord]) -> list[str]:
    """What must stand in a device's configuration, and nothing here can know of it."""
    names = {image.name for image in manifest.images}
    roots = {word.value for word in named}
    opened = [i.name for i in manifest.images if i.tree.root.hex in roots]
    if all(f"{name}-verity" in names for name in opened):
        return []
    says = f"{', '.join(opened)} is opened by its root hash"
    return [f"{says}: devices need [install] verity, or refuse the release (docs/uki.md)"]


def judge_order(key: MenuKey, earlier: Mapping[str, MenuKey]) -> tuple[str | None, str | None]:
    """The published version that would be started instead of an image with `key`; and the one
    beside which only the names of their files decide. None where there is none."""
    before = next((v for v, other in earlier.items() if compare_menu_keys(key, other) > 0), None)
    equal = next((v for v, other in earlier.items() if compare_menu_keys(key, other) == 0), None)
    return before, equal


def _judge_order(path: Path, key: MenuKey | None, earlier: Mapping[str, MenuKey]) -> list[str]:
    if key is None:
        raise UsageError(
            "the UKI's .osrel has none of IMAGE_ID, ID, NAME, PRETTY_NAME: no boot menu lists it",
            where=path,
        )
    before, equal = judge_order(key, earlier)
    if before is not None:
        raise UsageError(
            f"release {before} would be started instead of this one",
            where=path,
            expected=f"IMAGE_ID={earlier[before].sort_key}, IMAGE_VERSION above {earlier[before].version}",
            got=f"IMAGE_ID={key.sort_key}, IMAGE_VERSION={key.version}",
            hint="slipstream repo uki --version sets it",
        )
    if equal is None:
        return []
    says = f"the UKI has the version of release {equal}, {key.version}"
    return [f"{says}: only the names of their files say which is started"]


def _texts(path: Path) -> dict[str, bytes]:
    """The first CMDLINE_BYTES_MAX bytes of each of UKI_SECTIONS."""
    with path.open("rb") as file:
        try:
            sections = parse_sections(file.read(HEADER_BYTES_MAX))
        except FormatError as error:
            raise UsageError(
                f"the uki image is no unified kernel image: {error.what}",
                where=path,
                expected="a PE file with " + ", ".join(UKI_SECTIONS),
                hint="slipstream repo uki makes one",
            ) from error
        size = path.stat().st_size
        texts = {}
        for name in UKI_SECTIONS:
            section = first_section(sections, name)
            if section is None or section.end > size:
                raise UsageError(
                    f"the uki image has no whole section {name}",
                    where=path,
                    expected=", ".join(UKI_SECTIONS),
                    got=", ".join(section.name for section in sections) or "none",
                    hint="slipstream repo uki makes one",
                )
            file.seek(section.offset)
            texts[name] = file.read(min(section.size, CMDLINE_BYTES_MAX))
    return texts
