"""Entries of the Boot Loader Specification's Type #1: a text file that names kernel and initrd.

Pure: values in, the bytes of the .conf file out. The kernel and the initrd of
release 42 in slot a are slipstream/0042a/linux and slipstream/0042a/initrd on the ESP.
"""

from pathlib import Path

from slipstream.delta.errors import FormatError
from slipstream.delta.manifest import Place
from slipstream.installer.boot.entry import EntryName, Suffix
from slipstream.installer.ports import BootFiles

FILES_FOLDER = Path("slipstream")
SORT_KEY = "slipstream"

# What each kind of entry boots from. The kernel first: the boot loader lists no entry whose kernel is missing.
PLACES = {Suffix.UKI: (Place.UKI,), Suffix.CONF: (Place.LINUX, Place.INITRD)}


def kind_of(boot: BootFiles) -> Suffix:
    """Which kind of entry these files make. Raises FormatError if they make none."""
    places = set(boot.files)
    if places == {Place.UKI}:
        return Suffix.UKI
    if Place.LINUX in places and places <= {Place.LINUX, Place.INITRD}:
        return Suffix.CONF
    raise FormatError(
        "boot files make no boot entry",
        expected="uki, or linux with or without initrd",
        got=", ".join(sorted(places)) or "none",
    )


def files_of(boot: BootFiles) -> tuple[tuple[Place, Path], ...]:
    """The files in the order in which they are written."""
    return tuple(
        (place, boot.files[place]) for place in PLACES[kind_of(boot)] if place in boot.files
    )


def dump_conf(name: EntryName, boot: BootFiles) -> bytes:
    """The entry's text. Raises FormatError for a value that would break its line.

    The version starts with the release counter, so that entries are in the order of releases
    whatever the versions are called: "42-2.0" is newer than "41-10.0".
    """
    lines = [
        ("title", boot.title),
        ("sort-key", SORT_KEY),
        ("version", f"{name.counter}-{boot.version}"),
        *(
            (place.value, f"/{FILES_FOLDER}/{name.stem}/{place.value}")
            for place, _ in files_of(boot)
        ),
        ("options", boot.options),
    ]
    for key, value in lines:
        if not value.isprintable():
            raise FormatError(
                "boot entry value is not one printable line", where=key, got=repr(value)
            )
    return "".join(f"{key} {value}\n" for key, value in lines if value).encode()
