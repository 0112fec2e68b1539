"""Signatures that UEFI Secure Boot checks: made by sbsign, checked by sbverify (sbsigntool).

A signature goes into the file, behind its sections; nothing here changes a file that is signed.
Private keys never touch a disk in the clear: sbsign gets them through a file in memory. Not here:
what is signed (uki.py), the owner's keys (owner_keys.py), and what a firmware enrolled.

Source: PE/COFF and Authenticode as sbsigntool implements them; UEFI specification, 32.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from slipstream.delta.errors import FormatError, SignatureError, SlipstreamError, UsageError
from slipstream.delta.pe import HEADER_BYTES_MAX
from slipstream.server.keys import Passphrases, load_private
from slipstream.server.stub import parse_header

RSA_BITS_MIN = 2048  # what every UEFI firmware takes; many take 3072 and 4096, few anything else
CERTIFICATES_BYTES_MAX = 1 << 20

_ROLE = "Secure Boot"  # whose passphrase is asked for
_OUTPUT_TAIL_CHARS = 400


@dataclass(frozen=True, slots=True)
class ImageSigner:
    """A key of the owner's `db`, and its certificate."""

    key: RSAPrivateKey
    certificate: x509.Certificate

    @property
    def name(self) -> str:
        """The certificate's subject."""
        return self.certificate.subject.rfc4514_string()


def load_signer(key: Path, certificate: Path, passphrases: Passphrases) -> ImageSigner:
    """Key and certificate from PEM files. UsageError if they are no pair that firmware takes."""
    private = load_private(key, _ROLE, passphrases)
    if not isinstance(private, RSAPrivateKey) or private.key_size < RSA_BITS_MIN:
        got = f"RSA {private.key_size}" if isinstance(private, RSAPrivateKey) else type(private).__name__  # fmt: skip
        raise UsageError(
            "not a key for Secure Boot", where=key, expected=f"RSA, {RSA_BITS_MIN} bits", got=got
        )
    (found, *more) = load_certificates([certificate])
    if more or found.public_key() != private.public_key():
        raise UsageError(
            "key and certificate are no pair",
            where=certificate,
            expected=f"the one certificate of {key}",
            got=f"{len(more) + 1} certificates" if more else found.subject.rfc4514_string(),
        )
    return ImageSigner(private, found)


def load_certificates(paths: Iterable[Path]) -> list[x509.Certificate]:
    """All certificates of some files, PEM or DER. UsageError for a file without any."""
    found = []
    for path in paths:
        with path.open("rb") as file:
            raw = file.read(CERTIFICATES_BYTES_MAX)
        try:
            if b"-----BEGIN" in raw:
                found += x509.load_pem_x509_certificates(raw)
            else:
                found.append(x509.load_der_x509_certificate(raw))
        except ValueError as error:
            raise UsageError(
                "not a certificate", where=path, expected="X.509, PEM or DER"
            ) from error
    return found


def sign_image(unsigned: Path, signed: Path, signer: ImageSigner) -> None:
    """Write `signed`: the image with a signature. It is verified before this returns.

    The bytes differ from one signing to the next: the signature holds its time. SlipstreamError
    where sbsign fails or is not installed; OSError.
    """
    key = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _in_memory(key) as key_file, _in_memory(_pem(signer.certificate)) as certificate:
        done = _run(
            ["sbsign", "--key", key_file, "--cert", certificate, "--output", str(signed), str(unsigned)]
        )  # fmt: skip
    if done.returncode or not signed.exists():
        raise SlipstreamError("sbsign cannot sign the image", where=unsigned, got=_tail(done))
    check_signature(signed, [signer.certificate])
    descriptor = os.open(signed, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_signature(image: Path, certificates: Sequence[x509.Certificate]) -> None:
    """Check that a signature of the image is by one of `certificates`, or by one that it signed.

    As firmware does, dates are not looked at. SignatureError otherwise, and with no certificates.
    """
    said = "no certificate to check it against"
    for certificate in certificates:
        with _in_memory(_pem(certificate)) as file:
            done = _run(["sbverify", "--cert", file, str(image)])
        if not done.returncode:
            return
        said = _tail(done)
    raise SignatureError(
        "the image has no valid signature for Secure Boot",
        where=image,
        expected="one by " + " or ".join(one.subject.rfc4514_string() for one in certificates),
        got=said,
        hint="slipstream repo uki --sign-key KEY --sign-cert CERT signs one",
    )


def is_signed(image: Path) -> bool:
    """Whether there is a signature in the image at all, valid or not."""
    with image.open("rb") as file:
        try:
            return parse_header(file.read(HEADER_BYTES_MAX)).is_signed
        except FormatError:  # of another kind, or none at all: nothing that could be checked
            return False


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path under which a child reads `data`. The file has no name and is in no file system."""
    with ExitStack() as stack:
        descriptor = os.memfd_create("slipstream")
        stack.callback(os.close, descriptor)
        os.write(descriptor, data)
        os.set_inheritable(descriptor, True)
        yield f"/dev/fd/{descriptor}"


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    descriptors = [int(word.removeprefix("/dev/fd/")) for word in words if word.startswith("/dev/fd/")]  # fmt: skip
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, pass_fds=descriptors,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SlipstreamError(
            f"{words[0]} is not installed", hint="Install sbsigntool (Debian, Fedora: sbsigntools)"
        ) from error


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a program printed, on one line; sbsign says why on several."""
    return " ".join((done.stderr + done.stdout).split())[-_OUTPUT_TAIL_CHARS:]
