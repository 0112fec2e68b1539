"""Root file system images of a demonstration's release: one tree, once as ext4, once as squashfs.

What goes into the tree beside Debian's packages is the device's application and the file that
tells Slipstream which release runs.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from slipstream.demo.tools import SOURCE_DATE_EPOCH, run_tool

PACKAGES = (
    "systemd-sysv,udev,dbus,openssh-server,python3,curl,ca-certificates,iproute2,nftables,"
    "e2fsprogs,less,vim-tiny,ifupdown,kmod,procps,sudo,git,nginx-light,tzdata,tcpdump,strace"
)
# The large pair, for benchmarks only: with a kernel, an initrd and containerd.
LARGE_PACKAGES = f"{PACKAGES},linux-image-{{arch}},initramfs-tools,containerd"
EXT4_BYTES = 480 * 1024 * 1024
# mkfs's own choice of blocks below 512 MB is 1 KiB; a root file system that grows has 4 KiB. Of
# squashfs only the codec is chosen: blocks of 128 KiB and zstd's level are mksquashfs's defaults.
IMAGES_OF_A_TREE = f"""
set -e
mkdir root
tar -C root -xf root.tar --exclude="./dev/*"
cp -a overlay/. root/
find root -newermt @{SOURCE_DATE_EPOCH} -exec touch -hd @{SOURCE_DATE_EPOCH} {{}} +
truncate -s "$1" ext4
mkfs.ext4 -q -b 4096 -m 0 -O ^has_journal -U 6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0001 \
    -E hash_seed=6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0002,lazy_itable_init=0 -d root ext4
mksquashfs root squashfs -comp zstd -noappend -quiet -no-progress
"""
APPLICATION = Path("usr/lib/gateway/gateway")
RELEASE_FILE = Path("usr/lib/slipstream/release.json")

GOOD_APPLICATION = """#!/bin/sh
# The application of this device, as far as the demonstration needs one: its self-test.
echo "gateway {release}: self-test passed"
"""
BAD_APPLICATION = """#!/bin/sh
echo "gateway {release}: cannot read /etc/gateway/upstream.conf: No such file or directory" >&2
exit 1
"""


def make_images(
    tar: Path, counter: int, ext4: Path, squashfs: Path, *, ext4_bytes: int = EXT4_BYTES
) -> None:
    """Both images of release `counter`: the tree in `tar`, with the application in it.

    Raises SlipstreamError where a tool fails; neither image is then there in part.
    """
    with tempfile.TemporaryDirectory(dir=ext4.parent) as name:
        folder = Path(name)
        (folder / "root.tar").symlink_to(tar.absolute())
        _write_overlay(folder / "overlay", counter, GOOD_APPLICATION)
        # Ownership inside the images needs root, or fakeroot's word for it.
        prefix = [] if os.geteuid() == 0 else ["fakeroot"]
        run_tool([*prefix, "sh", "-c", IMAGES_OF_A_TREE, "images", str(ext4_bytes)], cwd=folder)
        (folder / "ext4").replace(ext4)
        (folder / "squashfs").replace(squashfs)


def spoil(image: Path, output: Path, counter: int) -> None:
    """A broken release: a copy of an ext4 image whose application fails its self-test."""
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        copy, overlay = Path(folder, "image"), Path(folder, "overlay")
        shutil.copyfile(image, copy)
        _write_overlay(overlay, counter, BAD_APPLICATION)
        commands = "".join(
            f"rm /{path}\nwrite {overlay / path} /{path}\nsif /{path} mode {mode}\n"
            for path, mode in ((APPLICATION, "0100755"), (RELEASE_FILE, "0100644"))
        )
        run_tool(["debugfs", "-w", "-f", "-", str(copy)], stdin=commands)
        copy.replace(output)


def _write_overlay(overlay: Path, counter: int, application: str) -> None:
    about = {"product": "gateway", "release": str(counter), "counter": counter, "floor": 0, "issued": 0}  # fmt: skip
    for path, text in (
        (APPLICATION, application.format(release=counter)),
        (RELEASE_FILE, json.dumps(about) + "\n"),
    ):
        (overlay / path).parent.mkdir(parents=True, exist_ok=True)
        (overlay / path).write_text(text)
    (overlay / APPLICATION).chmod(0o755)
