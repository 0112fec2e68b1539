"""OVMF: UEFI for QEMU, with a variable store for each machine; and Secure Boot's keys.

Keys are enrolled as an owner does it on the first start: the variables are in setup mode, the ESP
carries signed variable updates below loader/keys/auto, and systemd-boot enrols them (systemd-boot(7),
secure-boot-enroll).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from slipstream.demo.commands import run_slipstream
from slipstream.demo.tools import run_tool

OVMF = Path("/usr/share/OVMF")


@dataclass(frozen=True, slots=True)
class Firmware:
    """The firmware of one machine: code that all share, variables of its own."""

    variables: Path
    secure: bool = False

    def arguments(self) -> list[str]:
        """What QEMU needs for it."""
        code = OVMF / ("OVMF_CODE_4M.secboot.fd" if self.secure else "OVMF_CODE_4M.fd")
        flash = [
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={self.variables}"),
        ]
        if not self.secure:
            return ["-machine", "q35,smm=off", *flash]
        # Only the firmware, in system management mode, may write its variables.
        secure = ("-global", "driver=cfi.pflash01,property=secure,value=on")
        return ["-machine", "q35,smm=on", *secure, *flash]


def make_firmware(folder: Path, *, secure: bool) -> Firmware:
    """A factory-new firmware: no keys, no boot entries."""
    variables = folder / "variables.fd"
    shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", variables)
    return Firmware(variables, secure)


@dataclass(frozen=True, slots=True)
class Keys:
    """The owner's keys, in a folder as `slipstream repo secure-boot-keys` makes it."""

    folder: Path

    def updates(self) -> dict[str, Path]:
        """Signed variable updates, by their place on the ESP."""
        return {f"loader/keys/auto/{path.name}": path for path in self.folder.glob("auto/*.auth")}

    def sign(self, binary: Path, output: Path) -> None:
        """A copy of an EFI binary, signed for the firmware's db."""
        key, certificate = self.folder / "db.key", self.folder / "db.crt"
        run_tool(["sbsign", "--key", str(key), "--cert", str(certificate), "--output", str(output), str(binary)])  # fmt: skip


def make_keys(folder: Path) -> Keys:
    """New keys, certificates and signed updates in `folder`."""
    words = ("repo", "secure-boot-keys", str(folder), "--name", "Slipstream e2e")
    run_slipstream(*words, "--insecure-no-passphrase", say=lambda _: None)
    return Keys(folder)
