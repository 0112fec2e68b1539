"""The bytes of Secure Boot's variables: lists of certificates, and signed updates of them.

An update is what `SetVariable` takes, in a file: a time, a signature over name, vendor, attributes,
time and contents, and the contents. Firmware takes one only if its time is later than that of what
it replaces. Pure: values in, bytes out.

Source: UEFI specification, 8.2.2 (EFI_VARIABLE_AUTHENTICATION_2) and 32.4.1 (EFI_SIGNATURE_LIST).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")  # EFI_GLOBAL_VARIABLE
IMAGE_SECURITY = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # EFI_IMAGE_SECURITY_DATABASE_GUID
VENDORS = {"PK": GLOBAL, "KEK": GLOBAL, "db": IMAGE_SECURITY}

_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")  # EFI_CERT_X509_GUID
_PKCS7 = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")  # EFI_CERT_TYPE_PKCS7_GUID
_LIST = struct.Struct("<16sIII16s")  # type, size of all, of the header, of one; then its owner
_TIME = struct.Struct("<H5BxIhBx")  # EFI_TIME; all behind the seconds must be zero
_CERTIFICATE = struct.Struct("<IHH16s")  # WIN_CERTIFICATE_UEFI_GUID: size, revision, kind, type
_REVISION, _KIND_GUID = 0x0200, 0x0EF1
_ATTRIBUTES = 0x27  # non-volatile, at boot time, at run time, authenticated by time
_APPEND = 0x40
_SIGNED_DATA_OID = bytes.fromhex("06092a864886f70d010702")


@dataclass(frozen=True, slots=True)
class Update:
    """New contents of a variable, or what is to be added to them."""

    name: str  # one of VENDORS
    contents: bytes
    time: datetime
    append: bool = False

    @property
    def attributes(self) -> int:
        """As SetVariable takes them."""
        return _ATTRIBUTES | (_APPEND if self.append else 0)


def dump_signature_list(certificates: Sequence[x509.Certificate], owner: UUID) -> bytes:
    """A list for each certificate: lists hold signatures of one size. `owner` says whose they are."""
    lists = []
    for certificate in certificates:
        der = certificate.public_bytes(Encoding.DER)
        size = 16 + len(der)
        lists.append(
            _LIST.pack(_X509.bytes_le, _LIST.size - 16 + size, 0, size, owner.bytes_le) + der
        )
    return b"".join(lists)


def dump_update(update: Update, key: RSAPrivateKey, certificate: x509.Certificate) -> bytes:
    """A signed update, as a .auth file: the same inputs make the same bytes."""
    time = dump_time(update.time)
    signature = (
        PKCS7SignatureBuilder()
        .set_data(signed_bytes(update))
        .add_signer(certificate, key, hashes.SHA256())
        .sign(
            Encoding.DER,
            [PKCS7Options.DetachedSignature, PKCS7Options.Binary, PKCS7Options.NoAttributes],
        )
    )
    content = _signed_data(signature)
    head = _CERTIFICATE.pack(_CERTIFICATE.size + len(content), _REVISION, _KIND_GUID, _PKCS7.bytes_le)  # fmt: skip
    return time + head + content + update.contents


def signed_bytes(update: Update) -> bytes:
    """What is signed of an update: all that decides what it does."""
    return b"".join(
        (
            update.name.encode("utf-16-le"),
            VENDORS[update.name].bytes_le,
            struct.pack("<I", update.attributes),
            dump_time(update.time),
            update.contents,
        )
    )


def dump_time(time: datetime) -> bytes:
    """EFI_TIME, in UTC, to the second."""
    utc = time.astimezone(UTC)
    return _TIME.pack(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, 0, 0, 0)


def _signed_data(content_info: bytes) -> bytes:
    """The SignedData in a PKCS #7 ContentInfo: EDK2 before 2023 takes nothing around it."""
    outer = _value(content_info, 0)
    assert content_info[outer : outer + len(_SIGNED_DATA_OID)] == _SIGNED_DATA_OID
    return content_info[_value(content_info, outer + len(_SIGNED_DATA_OID)) :]


def _value(der: bytes, at: int) -> int:
    """Where the value of the DER element at `at` begins."""
    length = der[at + 1]
    return at + 2 + (length & 0x7F if length & 0x80 else 0)
