"""The unified kernel image of a release: systemd's stub, os-release, command line, kernel."""

import os
import tempfile
from pathlib import Path

from slipstream.demo.tools import run_tool

STUBS = Path("/usr/lib/systemd/boot/efi")
EFI_ARCHITECTURES = {"x86_64": "x64", "aarch64": "aa64"}
OS_RELEASE = """\
ID=gateway
IMAGE_ID=gateway
PRETTY_NAME="Gateway {version}"
VERSION_ID={version}
IMAGE_VERSION={version}
"""


def make_uki(kernel: Path, output: Path, *, version: str, cmdline: str) -> None:
    """Write `output`, whole or not at all. Raises SlipstreamError if objcopy fails."""
    machine = os.uname().machine
    stub = STUBS / f"linux{EFI_ARCHITECTURES.get(machine, machine)}.efi.stub"
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        osrel, line, made = (Path(folder, name) for name in ("osrel", "cmdline", "uki"))
        osrel.write_text(OS_RELEASE.format(version=version))
        line.write_text(cmdline)
        # Addresses as in ukify's predecessor recipe: above the stub, in ascending order.
        sections = ((".osrel", osrel, 0x20000), (".cmdline", line, 0x30000), (".linux", kernel, 0x2000000))  # fmt: skip
        words = ["objcopy"]
        for name, path, address in sections:
            words += ["--add-section", f"{name}={path}", "--change-section-vma", f"{name}={address:#x}"]  # fmt: skip
        run_tool([*words, str(stub), str(made)])
        made.replace(output)
