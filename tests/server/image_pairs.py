"""Two releases of a small system, as trees of files and as images of every kind that is opened.

What differs: code with an insertion and shifted addresses, a changed line in each compressed
document, a module folder named after the version, a file that moved, one that is new, one that
is gone. Everything is the same whenever it is made, but for the version of the tools.
"""

import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

UUID = "6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0001"
_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
_XZ = "xz -c --check=crc32 --lzma2=dict=1MiB"  # as kernel modules are compressed
_ENVIRONMENT = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Source and target: two trees, or two images."""

    source: Path
    target: Path


def code(seed: int, size: int, *, later: bool) -> bytes:
    """Something like a program: few words, and addresses that all shift in the later release."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(2, 7)) for _ in range(1200)]
    made = bytearray()
    while len(made) < size:
        made += chance.choice(words)
        if chance.random() < 0.05:
            address = chance.randrange(1 << 20) + (0x40 if later else 0)
            made += b"\xe8" + address.to_bytes(4, "little")
    if later:
        made[size // 3 : size // 3] = chance.randbytes(40)
    return bytes(made)


def text(seed: int, size: int, *, later: bool) -> bytes:
    """A document; the later release has a paragraph more at the top."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(1, 5)).hex() for _ in range(900)]
    lines = []
    while sum(map(len, lines)) < size:
        lines.append(" ".join(chance.choices(words, k=9)) + "\n")
    if later:
        lines.insert(0, "version 1.1: " + " ".join(chance.choices(words, k=20)) + "\n")
    return "".join(lines).encode()


def packed(command: str, data: bytes) -> bytes:
    """What a command line makes of data on its input."""
    words = command.split()
    return subprocess.run(words, input=data, stdout=subprocess.PIPE, check=True).stdout


def archive(files: dict[str, bytes]) -> bytes:
    """A cpio archive as `cpio -H newc` writes it, all dates and owners 0."""
    made = bytearray()
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        raw = name.encode() + b"\0"
        numbers = (number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        made += b"070701" + b"".join(b"%08X" % one for one in numbers) + raw
        made += bytes(-len(made) % 4) + data
        made += bytes(-len(made) % 4)
    return bytes(made) + bytes(-len(made) % 512)


def initrd(*, later: bool) -> bytes:
    """An unpacked initrd of 1.6 MiB: more than is ever unpacked at once."""
    version = "6.1.20" if later else "6.1.19"
    return archive(
        {
            f"usr/lib/modules/{version}/kernel/module-{n}.ko": code(n, 200_000, later=later)
            for n in range(8)
        }
    )


def make_tree(root: Path, *, later: bool, nested: bool) -> Path:
    """One release below `root`; `nested`: with compressed files in it."""
    version = "6.1.20" if later else "6.1.19"
    files = {
        "etc/version": version.encode(),
        "usr/share/moved/photo" if later else "usr/share/photo": random.Random(1).randbytes(90_000),
        "usr/share/" + ("new" if later else "gone"): random.Random(2 + later).randbytes(6_000),
    }
    for n in range(6):
        files[f"lib/modules/{version}/module-{n}.ko"] = code(n, 110_000, later=later)
        files[f"usr/share/doc/package-{n}/copyright"] = text(30 + n, 9_000, later=False)
        document = text(20 + n, 50_000, later=later)
        if nested:
            files[f"usr/share/doc/package-{n}/changelog.gz"] = packed("gzip -n -9", document)
        else:
            files[f"usr/share/doc/package-{n}/changelog"] = document
    if nested:
        files["lib/firmware/table.xz"] = packed(_XZ, code(50, 300_000, later=later))
        files[f"boot/initrd.img-{version}"] = packed("gzip -n -6", initrd(later=later))
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in sorted(root.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return root


def make_trees(folder: Path, *, nested: bool) -> Pair:
    """Both releases."""
    return Pair(
        make_tree(folder / "source", later=False, nested=nested),
        make_tree(folder / "target", later=True, nested=nested),
    )


def _run(command: str, *paths: Path) -> None:
    words = [*command.split(), *map(str, paths)]
    subprocess.run(words, check=True, capture_output=True, env=_ENVIRONMENT)


def _make_ext4(tree: Path, image: Path) -> None:
    """Small files first: they fill the holes at the front, so that the large ones are in one place."""
    with image.open("wb") as file:
        file.truncate(8 << 20)
    _run(f"mkfs.ext4 -q -m 0 -b 1024 -O ^has_journal -U {UUID} -E hash_seed={UUID}", image)
    paths = sorted(tree.rglob("*"))
    files = sorted((path for path in paths if path.is_file()), key=lambda path: path.stat().st_size)
    orders = [f"mkdir /{path.relative_to(tree)}" for path in paths if path.is_dir()]
    orders += [f"write {path} /{path.relative_to(tree)}" for path in files]
    script = image.with_suffix(".debugfs")
    script.write_text("\n".join(orders))
    _run(f"debugfs -w -f {script}", image)


def make_image(kind: str, tree: Path, image: Path) -> Path:
    """An image of a tree: `ext4`, `squashfs xz`, `erofs lz4hc`, `uki`."""
    sort, _, codec = kind.partition(" ")
    match sort:
        case "ext4":
            _make_ext4(tree, image)
        case "squashfs":
            words = f"-comp {codec} -noappend -quiet -no-progress -all-root -processors 1"
            _run(f"mksquashfs {tree} {image} {words}")
        case "erofs":
            _run(f"mkfs.erofs --quiet -T1700000000 -U {UUID} -z{codec}", image, tree)
        case "uki":
            kernel = image.with_suffix(".linux")
            kernel.write_bytes(next(tree.glob("lib/modules/*/module-0.ko")).read_bytes())
            initrd_file = next((tree / "boot").glob("initrd.img-*"))
            _run(
                f"objcopy --add-section .linux={kernel} --change-section-vma .linux=0x2000000"
                f" --add-section .initrd={initrd_file} --change-section-vma .initrd=0x4000000",
                _STUB,
                image,
            )
        case _:
            raise AssertionError(kind)
    return image


# Where each kind of file system says what it is; without that an image is just bytes.
_MAGICS = {"ext4": (1024 + 0x38, 2), "squashfs": (0, 4), "erofs": (1024, 4), "uki": (0, 2)}


def hide_format(kind: str, image: Path, hidden: Path) -> Path:
    """The same image without its magic number: nothing in it is found, so nothing is opened."""
    data = bytearray(image.read_bytes())
    offset, size = _MAGICS[kind.partition(" ")[0]]
    data[offset : offset + size] = bytes(size)
    hidden.write_bytes(data)
    return hidden
