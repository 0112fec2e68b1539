"""What a release boots from, looked into before it is signed.

A device finds out only after the download that a unified kernel image cannot work. Here it costs
nothing. What the firmware makes of it (signatures, the kernel itself) is not judged.
"""

from pathlib import Path

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.limits import CMDLINE_BYTES_MAX
from slipstream.delta.manifest import Manifest, Place, root_options
from slipstream.delta.pe import HEADER_BYTES_MAX, first_section, parse_sections

UKI_SECTIONS = (".linux", ".cmdline", ".osrel")  # kernel, its command line, what the menu sorts by


def check_boot_files(manifest: Manifest, paths: dict[str, Path]) -> tuple[str, ...]:
    """Notes for the publisher on how the release boots. `paths` gives the file of every image.

    Raises UsageError for a UKI that lacks a section, or whose command line names a root hash that
    no partition image of the release has.
    """
    places = {image.place: image for image in manifest.images}
    roots = {i.tree.root.hex: i.name for i in manifest.images if i.place is Place.PARTITION}
    uki = places.get(Place.UKI)
    if uki is None and Place.LINUX not in places:
        return ("neither a uki nor a linux image: a device with systemd-boot refuses this release",)
    if uki is None:
        return ()
    named = root_options(_cmdline(paths[uki.name]))
    for root in named:
        if root not in roots:
            raise UsageError(
                "the UKI's command line names a root hash that no image of the release has",
                where=paths[uki.name],
                expected=" or ".join(f"{root} ({name})" for root, name in sorted(roots.items())),
                got=root[:80],
                hint="slipstream repo root-hash says what it must be",
            )
    if roots and not named:
        return ("the UKI's command line has no roothash=: nothing ties the kernel to its images",)
    return ()


def _cmdline(path: Path) -> str:
    with path.open("rb") as file:
        try:
            sections = parse_sections(file.read(HEADER_BYTES_MAX))
        except FormatError as error:
            raise UsageError(
                f"the uki image is no unified kernel image: {error.what}",
                where=path,
                expected="a PE file with " + ", ".join(UKI_SECTIONS),
                hint="docs/publishing.md shows how to make one",
            ) from error
        size = path.stat().st_size
        for name in UKI_SECTIONS:
            section = first_section(sections, name)
            if section is None or section.end > size:
                raise UsageError(
                    f"the uki image has no whole section {name}",
                    where=path,
                    expected=", ".join(UKI_SECTIONS),
                    got=", ".join(section.name for section in sections) or "none",
                    hint="docs/publishing.md shows how to make one",
                )
        found = first_section(sections, ".cmdline")
        assert found is not None
        file.seek(found.offset)
        return (
            file.read(min(found.size, CMDLINE_BYTES_MAX)).rstrip(b"\0\n").decode(errors="replace")
        )
