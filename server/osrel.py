"""The `.osrel` section of a unified kernel image: os-release text with the release's id and version.

systemd-boot sorts images by IMAGE_ID, then by IMAGE_VERSION, newest first (delta/os_release.py), so
both are always there. Everything else of the file is kept as it is. Pure: bytes in, bytes out.

Source: os-release(5).
"""

import re

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.fields import check_name
from slipstream.delta.limits import KIB
from slipstream.delta.os_release import read_pairs

OS_RELEASE_BYTES_MAX = 64 * KIB  # what installer/boot/chooser.py reads of it; real ones have 500 B

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_OURS = re.compile(r"\s*(IMAGE_ID|IMAGE_VERSION)=")


def compose_osrel(text: bytes, *, product: str, version: str | None) -> bytes:
    """os-release text with IMAGE_ID and IMAGE_VERSION.

    The file's IMAGE_ID stays; without one it is `product`. `version` goes before the file's own.
    UsageError for text that is no os-release, or without a version at all.
    """
    lines = _lines(text)
    known = dict(read_pairs(text, "="))
    image_id = known.get("IMAGE_ID", product)
    image_version = version or known.get("IMAGE_VERSION")
    if image_version is None:
        raise UsageError(
            "nothing says which version the image is",
            where="--os-release",
            expected="IMAGE_VERSION in the file, or --version",
            hint="systemd-boot starts the highest version",
        )
    try:
        check_name("IMAGE_ID", image_id)
        check_name("IMAGE_VERSION", image_version)
    except FormatError as error:
        raise UsageError(str(error), where="--os-release") from error
    kept = [line for line in lines if not _OURS.match(line)]
    kept += [f"IMAGE_ID={image_id}", f"IMAGE_VERSION={image_version}"]
    return ("\n".join(kept) + "\n").encode()


def _lines(text: bytes) -> list[str]:
    if len(text) > OS_RELEASE_BYTES_MAX:
        raise UsageError(
            "os-release file is too large",
            where="--os-release",
            expected=f"at most {OS_RELEASE_BYTES_MAX} bytes",
            got=len(text),
        )
    try:
        lines = [line.rstrip() for line in text.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise UsageError("os-release file is not UTF-8", where="--os-release") from error
    for number, line in enumerate(lines, 1):
        bare = line.strip()
        if "\0" in line or (bare and not bare.startswith("#") and not _ASSIGNMENT.match(bare)):
            raise UsageError(
                f"line {number} of the os-release file is no assignment",
                where="--os-release",
                expected="NAME=VALUE",
                got=repr(bare[:80]),
            )
    return lines
