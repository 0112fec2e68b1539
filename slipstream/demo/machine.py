"""A device whose firmware and boot loader are simulated: a disk image, an ESP, a state folder.

What an installer sees is real: a GPT disk image with two slots, boot entries on the ESP, a kernel
command line and the name of the booted entry, and the release file of the running system. What is
simulated: the boot itself (installer/boot/chooser.py picks and counts as systemd-boot does), and
that programs of the running release are taken out of its file system to be run.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.images import APPLICATION, RELEASE_FILE
from slipstream.installer.boot.chooser import boot
from slipstream.installer.boot.entry import parse_entry_name

MIB = 1024 * 1024
FIRST_SLOT_BYTES = 1 * MIB
# Behind each image: room for the dm-verity hash tree (0.8 % of the image) and its superblock.
SLOT_SPARE_PERCENT = 2
SQUASHFS_MAGIC = b"hsqs"


@dataclass(frozen=True, slots=True)
class Machine:
    """A simulated device in a folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "device.toml"

    @property
    def esp(self) -> Path:
        return self.folder / "esp"

    def boot(self) -> str:
        """Power on: the boot loader picks an entry, counts, and starts it. Returns its file name.

        Raises SlipstreamError if nothing can be started.
        """
        choice = boot(self.esp)
        name = None if choice is None else parse_entry_name(choice.path.name)
        if choice is None or name is None or not choice.loadable:
            raise SlipstreamError("nothing boots", where=self.esp)
        run = self.folder / "run"
        (run / "cmdline").write_text(choice.cmdline + "\n")
        # As LoaderEntrySelected: the name before the boot loader counted.
        (run / "entry").write_text(choice.entry.id + "\n")
        (run / "slot").write_text(name.slot + "\n")
        self._take_out(name.slot, RELEASE_FILE, run / "release.json")
        self._take_out(name.slot, APPLICATION, run / "gateway")
        return choice.path.name

    def offset_of(self, slot: str) -> int:
        """Where the slot's partition begins on the disk image, in bytes."""
        offset = json.loads((self.folder / "layout.json").read_text())[slot]
        assert isinstance(offset, int)
        return offset

    def _take_out(self, slot: str, path: Path, output: Path) -> None:
        """Copy a file out of the booted slot's file system; none if it is not there."""
        output.unlink(missing_ok=True)
        disk, offset = self.folder / "disk.img", self.offset_of(slot)
        with disk.open("rb") as file:
            file.seek(offset)
            is_squashfs = file.read(len(SQUASHFS_MAGIC)) == SQUASHFS_MAGIC
        if is_squashfs:
            words = ["sqfscat", "-o", str(offset), str(disk), str(path)]
            found = subprocess.run(words, capture_output=True, check=False)
            if found.returncode == 0:
                output.write_bytes(found.stdout)
        else:
            # debugfs writes the file itself, and none where it finds no ext file system.
            words = ["debugfs", "-R", f"dump -p /{path} {output}", f"{disk}?offset={offset}"]
            subprocess.run(words, capture_output=True, check=False)


def make_machine(folder: Path, *, url: str, root: Path, token: str, image_bytes: int) -> Machine:
    """A factory-new device in `folder`: empty slots, empty ESP, a configuration."""
    machine = Machine(folder)
    for name in ("esp/EFI/Linux", "esp/loader/entries", "state", "run"):
        (folder / name).mkdir(parents=True)
    slot_bytes = (image_bytes * (100 + SLOT_SPARE_PERCENT) // 100 + 2 * MIB) // MIB * MIB
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(FIRST_SLOT_BYTES + 2 * slot_bytes + MIB)
    table = "label: gpt\n" + "".join(
        f"start={(FIRST_SLOT_BYTES + n * slot_bytes) // 512}, size={slot_bytes // 512}, "
        f"type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=rootfs-{name}\n"
        for n, name in enumerate("ab")
    )
    subprocess.run(
        ["sfdisk", "--quiet", str(disk)], input=table, text=True, capture_output=True, check=True
    )
    offsets = {name: FIRST_SLOT_BYTES + n * slot_bytes for n, name in enumerate("ab")}
    (folder / "layout.json").write_text(json.dumps(offsets))
    (folder / "run/cmdline").touch()
    (folder / "esp/loader/loader.conf").write_text("timeout 0\n")
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token + "\n")
    (folder / "token").chmod(0o600)
    (folder / "root.json").write_bytes(root.read_bytes())
    machine.config.write_text(_config(url, offsets, slot_bytes, (folder / "run").absolute()))
    return machine


def _config(url: str, offsets: dict[str, int], slot_bytes: int, run: Path) -> str:
    slots = "".join(
        f'[slots.{name}]\nrootfs = {{ path = "disk.img", offset = {offset}, size = {slot_bytes} }}\n\n'
        for name, offset in offsets.items()
    )
    health = json.dumps([sys.executable, "-m", "slipstream.demo.selftest", str(run)])
    return f"""\
[device]
id = "edge-1"
product = "gateway"
hardware = "{os.uname().machine}"
state = "state"

[server]
url = "{url}"
token_file = "token"
root = "root.json"

{slots}[boot]
adapter = "systemd-boot"
esp = "esp"
cmdline = "run/cmdline"
entry = "run/entry"
reboot = ["true"]

[release]
file = "run/release.json"

[install]
verity = "append"

[[health]]
name = "gateway-self-test"
command = {health}
timeout_s = 20
"""
