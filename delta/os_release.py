"""What the boot menu takes from os-release text: systemd-boot's reader, and the order of entries.

The text is the `.osrel` section of a unified kernel image, or a file on the build machine. Not
here: the whole order of a menu, with tries and file names (installer/boot/chooser.py).

Sources: systemd, src/boot/efi-string.c (line_get_key_value),
src/fundamental/bootspec-fundamental.c (bootspec_pick_name_version_sort_key), src/boot/boot.c
(boot_entry_compare).
"""

from dataclasses import dataclass

from slipstream.delta.version_order import compare_versions

_NAMES = ("PRETTY_NAME", "IMAGE_ID", "NAME", "ID")
_SORT_KEYS = ("IMAGE_ID", "ID")
_VERSIONS = ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")


@dataclass(frozen=True, slots=True)
class MenuKey:
    """What the boot loader sorts an image by: sort-keys rising, then versions, newest first."""

    sort_key: str | None
    version: str


def parse_menu_key(osrel: bytes) -> MenuKey | None:
    """The key of an `.osrel` section; None where systemd-boot passes over the image."""
    release = dict(read_pairs(osrel, "="))
    if not any(key in release for key in _NAMES):
        return None
    return MenuKey(
        next((release[key] for key in _SORT_KEYS if key in release), None),
        next((release[key] for key in _VERSIONS if key in release), ""),
    )


def compare_menu_keys(a: MenuKey, b: MenuKey) -> int:
    """Negative if `a` stands before `b` in the menu, 0 if their file names decide.

    An image without a sort-key stands after those with one, and its version counts for nothing.
    """
    if a.sort_key is None or b.sort_key is None:
        return (a.sort_key is None) - (b.sort_key is None)
    order = (a.sort_key > b.sort_key) - (a.sort_key < b.sort_key)
    return order or -compare_versions(a.version, b.version)


def read_pairs(raw: bytes, separators: str) -> list[tuple[str, str]]:
    """Lines of key and value: comments and lines without a value are dropped, quotes are peeled."""
    pairs = []
    for line in raw.split(b"\0", 1)[0].decode("utf-8", "replace").splitlines():
        text = line.strip(" \t\r")
        cut = next((i for i, char in enumerate(text) if char in separators), None)
        if text.startswith("#") or cut is None:
            continue
        value = text[cut:].lstrip(separators)
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if value:
            pairs.append((text[:cut], value))
    return pairs
