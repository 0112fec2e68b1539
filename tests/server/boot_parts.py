"""What a unified kernel image is made from, as small as it can be."""

import struct
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from slipstream.server.secure_boot import ImageSigner
from slipstream.server.uki import STUBS
from tests.server.repositories import NOW

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


@cache
def make_signer(name: str, *, until: datetime = NOW + timedelta(days=100)) -> ImageSigner:
    """A key of the owner's, and its certificate. Made once a name: keys take a tenth of a second."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(until - timedelta(days=200))
        .not_valid_after(until)
        .sign(key, hashes.SHA256())
    )
    return ImageSigner(key, certificate)


def write_signer(
    folder: Path, signer: ImageSigner, passphrase: str | None = None
) -> tuple[Path, Path]:
    """Its files as an owner has them: key and certificate."""
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    key = folder / f"{signer.name.removeprefix('CN=')}.key"
    key.write_bytes(signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    key.chmod(0o600)
    certificate = key.with_suffix(".crt")
    certificate.write_bytes(signer.certificate.public_bytes(Encoding.PEM))
    return key, certificate
