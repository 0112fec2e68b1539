"""Kinds of image: one table of recipes, each a line of shell that makes an image of a tree.

A recipe reads $ROOT (the tree), $SIZE (bytes of a file system that has a size) and, where the image
is an earlier one that was written to, $BEFORE (that image, or empty); it writes $IMAGE. Dates,
identifiers and hash seeds are fixed: the same tree gives the same bytes, except for WRITTEN, where
the kernel's clock gets in.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from benches.shell import run

UUID = "6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0001"
MKFS_EROFS = "mkfs.erofs"
SEED = "6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0002"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of image."""

    name: str
    title: str
    recipe: str
    follows: bool = False  # the target's image is made from the source's image
    mounts: bool = False  # needs root and a loop device
    newer_erofs: bool = False  # needs a mkfs.erofs with more codecs than 1.5 has (tools.py)


# mke2fs 1.47.0 takes access and change times from the tree, where nobody can set the latter; so they
# are set in the image. It gives inodes in sequence, from the first that is not reserved.
_FIX_TIMES = """
dumpe2fs -h "$IMAGE" 2>/dev/null | awk -v at="@$SOURCE_DATE_EPOCH" '
    /^Inode count:/ { all = $3 }
    /^Free inodes:/ { for (n = 12; n <= all - $3; n++) print "sif <" n "> atime " at "\\nsif <" n "> ctime " at }
' | debugfs -w -f - "$IMAGE" >/dev/null
"""


def _ext4(options: str) -> str:
    return (
        f"mkfs.ext4 -q -m 0 {options} -U {UUID} -E hash_seed={SEED},lazy_itable_init=0 "
        f'-d "$ROOT" "$IMAGE" "$((SIZE >> 10))k"{_FIX_TIMES}'
    )


# An image that lives: mounted, and the next release's files written over the last one's. rsync
# writes a file beside the one that it replaces and renames it, as dpkg does; so files move and
# free space breaks into pieces, and what is freed keeps its old bytes. It compares contents: with
# the trees' fixed dates, size and date say nothing.
_WRITTEN = f"""
if [ -z "$BEFORE" ]; then
    {_ext4("-b 4096")}
    exit
fi
cp --sparse=always "$BEFORE" "$IMAGE"
mkdir -p "$IMAGE.mount"
mount -o loop "$IMAGE" "$IMAGE.mount"
trap 'umount "$IMAGE.mount"; rmdir "$IMAGE.mount"' EXIT
rsync -aHXx --checksum --delete --exclude=/lost+found "$ROOT/" "$IMAGE.mount/"
"""


def _erofs(options: str) -> str:
    return f'"$MKFS_EROFS" --quiet -T1700000000 -U {UUID} {options} "$IMAGE" "$ROOT"'


def _squashfs(options: str) -> str:
    return f'mksquashfs "$ROOT" "$IMAGE" -noappend -quiet -no-progress {options}'


# Sections as ukify's predecessor recipe places them: above the stub, in ascending order.
_UKI = """
. "$ROOT/etc/os-release"
printf 'ID=gateway\\nVERSION_ID=%s\\n' "$VERSION_ID" >"$IMAGE.osrel"
printf 'root=PARTLABEL=root ro quiet' >"$IMAGE.cmdline"
objcopy \
  --add-section .osrel="$IMAGE.osrel" --change-section-vma .osrel=0x20000 \
  --add-section .cmdline="$IMAGE.cmdline" --change-section-vma .cmdline=0x30000 \
  --add-section .linux="$(echo "$ROOT"/boot/vmlinuz-*)" --change-section-vma .linux=0x2000000 \
  --add-section .initrd="$(echo "$ROOT"/boot/initrd.img-*)" --change-section-vma .initrd=0x4000000 \
  /usr/lib/systemd/boot/efi/linuxx64.efi.stub "$IMAGE"
rm "$IMAGE.osrel" "$IMAGE.cmdline"
"""

_INITRD = '"$ROOT"/boot/initrd.img-*'

KINDS = {
    kind.name: kind
    for kind in (
        Kind("ext4-4k", "ext4, 4 KiB blocks", _ext4("-b 4096 -O ^has_journal")),
        Kind("ext4-1k", "ext4, 1 KiB blocks", _ext4("-b 1024 -O ^has_journal")),
        Kind(
            "ext4-written",
            "ext4, mounted and written to between releases",
            _WRITTEN,
            follows=True,
            mounts=True,
        ),
        Kind("erofs", "erofs, not compressed", _erofs("")),
        Kind("erofs-lz4hc", "erofs, lz4hc", _erofs("-zlz4hc")),
        Kind("erofs-lz4hc-64k", "erofs, lz4hc, 64 KiB clusters", _erofs("-zlz4hc -C65536")),
        Kind("erofs-lzma", "erofs, lzma", _erofs("-zlzma"), newer_erofs=True),
        Kind("erofs-deflate", "erofs, deflate", _erofs("-zdeflate"), newer_erofs=True),
        Kind("erofs-zstd", "erofs, zstd", _erofs("-zzstd"), newer_erofs=True),
        Kind("squashfs-gzip", "squashfs, gzip", _squashfs("-comp gzip")),
        Kind("squashfs-xz", "squashfs, xz", _squashfs("-comp xz")),
        Kind("squashfs-zstd", "squashfs, zstd", _squashfs("-comp zstd")),
        Kind("squashfs-lz4", "squashfs, lz4", _squashfs("-comp lz4 -Xhc")),
        Kind("squashfs-lzo", "squashfs, lzo", _squashfs("-comp lzo")),
        Kind("squashfs-gzip-1m", "squashfs, gzip, 1 MiB blocks", _squashfs("-comp gzip -b 1M")),
        Kind("squashfs-xz-1m", "squashfs, xz, 1 MiB blocks", _squashfs("-comp xz -b 1M")),
        Kind("squashfs-zstd-1m", "squashfs, zstd, 1 MiB blocks", _squashfs("-comp zstd -b 1M")),
        Kind(
            "squashfs-zstd-nofrag",
            "squashfs, zstd, no fragments",
            _squashfs("-comp zstd -no-fragments"),
        ),
        Kind(
            "squashfs-xz-1m-nofrag",
            "squashfs, xz, 1 MiB blocks, no fragments",
            _squashfs("-comp xz -b 1M -no-fragments"),
        ),
        Kind("uki", "unified kernel image, kernel and initrd", _UKI),
        Kind("kernel", "kernel alone", 'cp "$ROOT"/boot/vmlinuz-* "$IMAGE"'),
        Kind("initrd-gzip", "initrd alone, GNU gzip", f'cp {_INITRD} "$IMAGE"'),
        # The commands of Debian's mkinitramfs for these two.
        Kind("initrd-zstd", "initrd alone, zstd", f'gzip -dc {_INITRD} | zstd -q -9 >"$IMAGE"'),
        Kind("initrd-xz", "initrd alone, xz", f'gzip -dc {_INITRD} | xz --check=crc32 >"$IMAGE"'),
    )
}


def missing_for(kind: Kind) -> str | None:
    """Why this machine cannot make such an image; None where it can."""
    if kind.mounts and not (os.geteuid() == 0 and Path("/dev/loop-control").exists()):
        return "mounting an image needs root and loop devices"
    return None


def make_image(
    kind: Kind,
    root: Path,
    size_bytes: int,
    image: Path,
    before: Path | None,
    mkfs_erofs: Path | str = MKFS_EROFS,
) -> None:
    """Write `image`, whole or not at all. SlipstreamError where the recipe fails."""
    image.parent.mkdir(parents=True, exist_ok=True)
    part = image.with_name(image.name + ".part")
    part.unlink(missing_ok=True)
    run(
        kind.recipe,
        owners=root,
        ROOT=root,
        SIZE=size_bytes,
        IMAGE=part,
        BEFORE=before if kind.follows and before is not None else "",
        MKFS_EROFS=mkfs_erofs,
    )
    part.replace(image)
