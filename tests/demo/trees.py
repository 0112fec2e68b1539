"""Small root trees for the demonstration: no packages, only what its images are made of."""

import io
import random
import tarfile
from pathlib import Path

from slipstream.demo.images import make_images

MIB = 1 << 20
EXT4_BYTES = 16 * MIB


def make_tar(path: Path, *, edits: int = 0) -> None:
    """A root tree with 4 MiB of text; `edits` of its lines are other ones."""
    chance = random.Random(7)
    lines = [b"%032x\n" % chance.getrandbits(64) for _ in range(4 * MIB // 33)]
    for number in range(edits):
        lines[chance.randrange(len(lines))] = b"edited line %d\n" % number
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("./usr/share/words", b"".join(lines)),
            ("./etc/hostname", b"gateway\n"),
            ("./dev/null", b"stands for a device\n"),
        ):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            about.mtime = 2_000_000_000
            tar.addfile(about, io.BytesIO(content))


def make_pair(folder: Path, counter: int, *, edits: int = 0) -> tuple[Path, Path]:
    """The ext4 and the squashfs image of one such tree."""
    tar, ext4, squashfs = (folder / f"{counter}.{kind}" for kind in ("tar", "ext4", "squashfs"))
    make_tar(tar, edits=edits)
    make_images(tar, counter, ext4, squashfs, ext4_bytes=EXT4_BYTES)
    return ext4, squashfs
