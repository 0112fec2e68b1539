"""Boot partitions as images, made by mkfs.vfat and mtools, and damaged on purpose."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from slipstream.delta.filesystem.fat_layout import FatLayout, parse_fat_layout
from slipstream.delta.filesystem.fat_volume import FatFile, FatVolume, Read, read_fat_volume
from tests.delta.filesystem.plain_images import MIB, run

END = 0x0FFF_FFFF


class EspImage:
    """An image file of a boot partition, changed byte by byte."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(
        cls,
        path: Path,
        files: Mapping[str, bytes],
        options: str = "-F 32 -s 1",
        size: int = 40 * MIB,
    ) -> "EspImage":
        """With these files, copied in this order."""
        with path.open("wb") as image:
            image.truncate(size)
        run("mkfs.vfat", *options.split(), str(path))
        image_of = cls(path)
        folders: dict[str, None] = {}
        for name in files:
            parts = name.split("/")[:-1]
            folders |= dict.fromkeys("/".join(parts[: n + 1]) for n in range(len(parts)))
        if folders:
            run("mmd", "-i", str(path), *(f"::/{folder}" for folder in folders))
        for name, data in files.items():
            image_of.put(name, data)
        return image_of

    def put(self, name: str, data: bytes) -> None:
        """Copy a file in, over one that is there."""
        subprocess.run(
            ["mcopy", "-o", "-i", self.path, "-", f"::/{name}"], input=data, check=True,
            capture_output=True,
        )  # fmt: skip

    def get(self, name: str) -> bytes:
        """What a tool that is not ours reads."""
        done = subprocess.run(
            ["mcopy", "-i", self.path, f"::/{name}", "-"], check=True, capture_output=True
        )
        return done.stdout

    def fsck(self, *options: str) -> str:
        """What fsck.vfat says; -n changes nothing."""
        done = run("fsck.vfat", *(options or ("-n",)), str(self.path), check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def reader(self) -> Read:
        def read(offset: int, size: int) -> bytes:
            with self.path.open("rb") as image:
                image.seek(offset)
                return image.read(size)

        return read

    def volume(self) -> FatVolume:
        return read_fat_volume(self.reader(), self.path.stat().st_size)

    @property
    def layout(self) -> FatLayout:
        return parse_fat_layout(self.reader()(0, 512), self.path.stat().st_size)

    def file(self, name: str) -> FatFile:
        found = self.volume().find(name)
        assert found is not None
        return found

    # --- damage

    def patch(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as image:
            image.seek(offset)
            image.write(data)

    def set_next(self, cluster: int, value: int, copies: tuple[int, ...] = (0, 1)) -> None:
        """What stands at a cluster in the allocation table (FAT16 and FAT32)."""
        layout = self.layout
        width = layout.bits // 8
        value &= (1 << layout.bits) - 1
        for copy in copies:
            at = layout.table_offset + copy * layout.table_size + cluster * width
            self.patch(at, value.to_bytes(width, "little"))

    def record_offset(self, name: str) -> int:
        """Byte of the short record of a file."""
        volume = self.volume()
        file = volume.find(name)
        assert file is not None
        folder = volume.folders[file.folder]
        return folder.offset_of(file.record.slots[-1], volume.layout)

    def set_start(self, name: str, cluster: int) -> None:
        at = self.record_offset(name)
        self.patch(at + 26, (cluster & 0xFFFF).to_bytes(2, "little"))
        self.patch(at + 20, (cluster >> 16).to_bytes(2, "little"))

    def set_size(self, name: str, size: int) -> None:
        self.patch(self.record_offset(name) + 28, size.to_bytes(4, "little"))

    def cross_link(self, name: str, other: str) -> None:
        """`name` gets the clusters and the size of `other`; its own are lost."""
        file = self.file(other)
        self.set_start(name, file.record.cluster)
        self.set_size(name, file.size)
