"""The guest's initrd: a few programs of its own root tree, the kernel modules, one script.

Pure but for reading the trees; the archive is newc (kernel: Documentation/driver-api/early-userspace/
buffer-format.rst), so that neither root nor cpio is needed for its device nodes and owners.
"""

import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import zstandard

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.tools import run_tool

INIT = Path(__file__).parent / "initrd" / "init"
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "sha256_ssse3",
    "dm_verity",
    "crc32c_intel",
    "ext4",
    "squashfs",
    "nls_cp437",
    "nls_ascii",
    "vfat",
    "efivarfs",
    "i6300esb",
)
# Built into one of Debian's two kernels; the watchdog's driver is in the general one only (guest.py).
OPTIONAL_MODULES = ("ext4", "i6300esb")
PROGRAMS = ("usr/bin/busybox", "usr/sbin/veritysetup", "usr/sbin/findfs")
APPLETS = [
    "sh",
    "mkdir",
    "mount",
    "insmod",
    "cat",
    "sleep",
    "grep",
    "cut",
    "sed",
    "echo",
    "switch_root",
]
LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib")
INTERPRETER = "usr/lib64/ld-linux-x86-64.so.2"


def make_initrd(root: Path, modules: Path) -> bytes:
    """The initrd, compressed: programs from the root tree `root`, modules below `modules`."""
    ordered = order_modules(MODULES, module_files(modules), OPTIONAL_MODULES)
    files: dict[str, bytes] = {"init": INIT.read_bytes()}
    for name in (*PROGRAMS, *_libraries(root, PROGRAMS)):
        files[name] = (root / name).read_bytes()
    files["lib64/ld-linux-x86-64.so.2"] = (root / INTERPRETER).resolve().read_bytes()
    for path in ordered:
        files[f"modules/{path.name}"] = path.read_bytes()
    files["modules/order"] = "".join(f"{path.name}\n" for path in ordered).encode()
    links = {f"usr/bin/{name}": "busybox" for name in APPLETS} | {"bin": "usr/bin"}
    return zstandard.ZstdCompressor(level=12).compress(dump_newc(files, links))


def module_files(folder: Path) -> dict[str, Path]:
    """All kernel modules below a folder, by name with underscores."""
    return {_module_name(path.name): path for path in folder.rglob("*.ko")}


def order_modules(
    names: Sequence[str], files: Mapping[str, Path], optional: Sequence[str] = ()
) -> list[Path]:
    """The modules and all that they need, each behind what it needs.

    What the kernel has built in has no file and is left out, if it is not one of `names`: of those,
    only `optional` ones may be missing. Raises SlipstreamError.
    """
    ordered: list[Path] = []
    missing = [name for name in names if _module_name(name) not in files and name not in optional]
    if missing:
        raise SlipstreamError("the kernel has no such modules", got=", ".join(missing))

    def add(name: str) -> None:
        path = files.get(_module_name(name))
        if path is None or path in ordered:
            return
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for need in filter(None, (found[1] if found else b"").decode().split(",")):
            add(need)
        ordered.append(path)

    for name in names:
        add(name)
    return ordered


def dump_newc(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """A newc archive: executable files and symbolic links by path, their folders, owned by root."""
    rows: dict[str, tuple[int, bytes]] = {}
    for path, content in [*files.items(), *((path, to.encode()) for path, to in links.items())]:
        for folder in reversed(Path(path).parents[:-1]):
            rows[str(folder)] = (stat.S_IFDIR | 0o755, b"")
        rows[path] = ((stat.S_IFLNK | 0o777) if path in links else (stat.S_IFREG | 0o755), content)
    archive = bytearray()
    for number, (path, (mode, content)) in enumerate([*rows.items(), ("TRAILER!!!", (0, b""))], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _module_name(name: str) -> str:
    return name.removesuffix(".ko").replace("-", "_")


def _libraries(root: Path, programs: Iterable[str]) -> list[str]:
    """Shared libraries that the programs need, and those that these need."""
    found: dict[str, str] = {}
    todo = list(programs)
    while todo:
        words = run_tool(["objdump", "-p", str(root / todo.pop())])
        for name in re.findall(r"NEEDED\s+(\S+)", words):
            if name in found or name.startswith("ld-linux"):
                continue
            paths = [f"{folder}/{name}" for folder in LIBRARY_FOLDERS]
            path = next((path for path in paths if (root / path).exists()), None)
            if path is None:
                raise SlipstreamError("a shared library is not in the root tree", got=name)
            found[name] = path
            todo.append(path)
    return list(found.values())
