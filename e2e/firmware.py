"""OVMF: UEFI for QEMU, with a variable store for each machine; and Secure Boot's keys.

Keys are enrolled as an owner does it on the first start: the variables are in setup mode, the ESP
carries signed variable updates below loader/keys/auto, and systemd-boot enrols them (systemd-boot(7),
secure-boot-enroll).
"""

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from slipstream.demo.tools import run_tool

OVMF = Path("/usr/share/OVMF")
OWNER = uuid.UUID("6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0010")
# Each variable and the key that signs its update: UEFI 2.10, 32.3.
SIGNED_BY = {"PK": "PK", "KEK": "PK", "db": "KEK"}


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
    """The owner's keys in a folder: NAME.key and NAME.crt for PK, KEK and db, NAME.auth to enrol."""

    folder: Path

    def updates(self) -> dict[str, Path]:
        """Signed variable updates, by their place on the ESP."""
        return {f"loader/keys/auto/{name}.auth": self.folder / f"{name}.auth" for name in SIGNED_BY}

    def sign(self, binary: Path, output: Path) -> None:
        """A copy of an EFI binary, signed for the firmware's db."""
        key, certificate = self.folder / "db.key", self.folder / "db.crt"
        run_tool(["sbsign", "--key", str(key), "--cert", str(certificate), "--output", str(output), str(binary)])  # fmt: skip


def make_keys(folder: Path) -> Keys:
    """New keys, certificates and signed updates in `folder`."""
    folder.mkdir(parents=True)
    for name in SIGNED_BY:
        # A day back and ten years on: the guest's clock is ours, but nobody's firmware has the same zone.
        words = ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256"]
        words += ["-subj", f"/CN=Slipstream test {name}/", "-days", "3650"]
        run_tool([*words, "-keyout", f"{name}.key", "-out", f"{name}.crt"], cwd=folder)
        run_tool(["openssl", "x509", "-in", f"{name}.crt", "-outform", "DER", "-out", f"{name}.der"], cwd=folder)  # fmt: skip
        run_tool(["sbsiglist", "--owner", str(OWNER), "--type", "x509", "--output", f"{name}.esl", f"{name}.der"], cwd=folder)  # fmt: skip
    for name, by in SIGNED_BY.items():
        run_tool(["sbvarsign", "--key", f"{by}.key", "--cert", f"{by}.crt", "--output", f"{name}.auth", name, f"{name}.esl"], cwd=folder)  # fmt: skip
    return Keys(folder)
