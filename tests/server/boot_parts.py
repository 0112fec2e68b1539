"""What a unified kernel image is made from, as small as it can be."""

import struct
from pathlib import Path

from slipstream.server.uki import STUBS

OS_RELEASE = '# a comment\nID=debian\nPRETTY_NAME="Größe 1"\nIMAGE_VERSION="0.9"\n'


def any_kernel() -> Path:
    """An EFI application in a kernel's place: systemd's own stub. No firmware starts it here."""
    return min(STUBS.glob("linux*.efi.stub"))


def make_bzimage(path: Path, release: str, *, machine: int = 0x8664, memory: int = 1 << 20) -> Path:
    """The head of an x86 kernel: its version where the boot protocol has it, and a PE header."""
    data = bytearray(0x800)
    data[:2], data[0x202:0x206] = b"MZ", b"HdrS"
    struct.pack_into("<I", data, 0x3C, 0x400)
    struct.pack_into("<H", data, 0x20E, 0x600 - 0x200)
    text = f"{release} (builder@host) #1 SMP".encode()
    data[0x600 : 0x600 + len(text)] = text
    struct.pack_into("<4sHHIIIHH", data, 0x400, b"PE\0\0", machine, 0, 0, 0, 0, 240, 0)
    struct.pack_into("<H54xI", data, 0x418, 0x20B, memory)
    path.write_bytes(data)
    return path
