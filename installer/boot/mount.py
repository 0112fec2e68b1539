"""Which mount a folder stands in, from /proc/self/mountinfo.

Pure but for `find_mount` and a mount's `block_device`. Source: Linux, Documentation/filesystems/proc.rst, 3.5.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.errors import DeviceFault

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks in paths
_FIELDS_MIN = 6  # before the optional ones


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `device` is "MAJOR:MINOR", `options` those of mount and file system."""

    point: Path
    root: str
    kind: str
    device: str
    source: str
    options: frozenset[str]

    @property
    def is_fat(self) -> bool:
        """Whether it is a FAT file system, the whole of it."""
        return self.kind in ("vfat", "msdos") and self.root == "/"

    @property
    def block_device(self) -> Path:
        """The device's file. Its number is sure: what its source was called when it was mounted may
        be another device's name by now. (An image file has no number.)
        """
        by_number = Path("/dev/block") / self.device
        try:
            found = os.stat(self.source)
        except OSError:
            return by_number
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        return (
            by_number
            if stat.S_ISBLK(found.st_mode) and number != self.device
            else Path(self.source)
        )


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """All mounts, in the order in which they were made; lines of another form are passed over."""
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        ours, theirs = left.split(" "), right.split(" ")
        if not separator or len(ours) < _FIELDS_MIN or len(theirs) < 3:
            continue
        _, _, device, root, point, options, *_ = ours
        kind, source, *super_options = theirs
        found.append(
            Mount(
                point=Path(_unescaped(point)),
                root=_unescaped(root),
                kind=kind,
                device=device,
                source=_unescaped(source),
                options=frozenset(",".join([options, *super_options]).split(",")),
            )
        )
    return tuple(found)


def mount_of(folder: Path, mounts: tuple[Mount, ...]) -> Mount | None:
    """The mount that an absolute folder stands in: the deepest, and of those the last one made."""
    holding = [mount for mount in mounts if folder.is_relative_to(mount.point)]
    return max(
        holding, key=lambda mount: (len(mount.point.parts), mounts.index(mount)), default=None
    )


def find_mount(folder: Path) -> Mount | None:
    """The mount of a folder now. An automount (systemd mounts /efi when it is used) is woken up.

    Raises DeviceFault.
    """
    try:
        folder = folder.resolve()
        if folder.is_dir():
            next(folder.iterdir(), None)
        return mount_of(folder, parse_mounts(MOUNTINFO.read_text("utf-8", "surrogateescape")))
    except OSError as error:
        raise DeviceFault(
            f"cannot find out where {folder} is mounted: {error.strerror}", where=MOUNTINFO
        ) from error


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
