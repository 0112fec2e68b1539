"""`slipstream repo secure-boot-keys`: the keys of a device's owner, and what enrols them.

    PK    platform key: signs changes of KEK          offline, in a safe
    KEK   key exchange key: signs changes of db       offline
    db    signs boot loaders and UKIs                 where images are signed

Each is `<name>.key` (encrypted PKCS#8 PEM, mode 600), `<name>.crt` (PEM), `<name>.esl` (a signature
list, for firmware that takes files). `auto/<name>.auth` are the signed updates that systemd-boot enrols from
loader/keys/auto/ of a boot partition; `no-PK.auth` takes the platform key away again. `owner.guid`
says whose certificates they are.

Not here: keys of Microsoft or of the board's maker. Without them firmware runs no option ROM that they
signed (docs/uki.md).
"""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.fields import check_line
from slipstream.server.disk import Disk
from slipstream.server.efi_variable import Update, dump_signature_list, dump_update
from slipstream.server.keys import Passphrases, key_encryption
from slipstream.server.secure_boot import RSA_BITS_MIN, ImageSigner, load_signer

# Each variable, and the key that signs changes of it. The platform key signs itself.
SIGNED_BY = {"PK": "PK", "KEK": "PK", "db": "KEK"}

_NAME_CHARS_MAX = 48  # with " KEK" and a number within the 64 of a common name (X.520)
# Firmware looks at no date of these, and nothing here renews them: as long as a device may live.
_LIFE = timedelta(days=30 * 365)


def make_owner_keys(
    folder: Path, name: str, *, passphrases: Passphrases, now: datetime, owner: UUID
) -> None:
    """Make PK, KEK and db in a new folder, whole or not at all. `owner`: any new UUID.

    UsageError if there is something at `folder`, or for a name or passphrase that cannot be; OSError.
    """
    _check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            "there is something already",
            where=folder,
            expected="no such folder, or an empty one",
            hint="Devices that trust these keys take updates signed by no others",
        )
    disk, staging = Disk(), folder.absolute().with_name(f".{folder.name}.new")
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    try:
        disk.make_folder(staging, mode=0o700)
        disk.make_folder(staging / "auto")
        disk.write(staging / "owner.guid", f"{owner}\n".encode())
        signers = {
            role: _make_key(disk, staging / role, f"{name} {role}", passphrases, now)
            for role in SIGNED_BY
        }
        for role, by in SIGNED_BY.items():
            contents = dump_signature_list([signers[role].certificate], owner)
            disk.write(staging / f"{role}.esl", contents)
            auth = _signed(Update(role, contents, now), signers[by])
            disk.write(staging / "auto" / f"{role}.auth", auth)
        # Later than what it replaces, or firmware takes it for an old one.
        nothing = Update("PK", b"", now + timedelta(seconds=1))
        disk.write(staging / "no-PK.auth", _signed(nothing, signers["PK"]))
        disk.rename(staging, folder.absolute())
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def add_db_key(folder: Path, name: str, *, passphrases: Passphrases, now: datetime) -> str:
    """Make one more key for db, and the updates that bring it in; its name, db-2 or higher.

    `<key>-add.auth` adds the certificate to a device's db; `<key>-only.auth` then leaves no other.
    UsageError where the folder has no KEK of `make_owner_keys`; OSError.
    """
    _check_name(name)
    try:
        owner = UUID((folder / "owner.guid").read_text().strip())
        signer = load_signer(folder / "KEK.key", folder / "KEK.crt", passphrases)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError(
            "no key exchange key to sign with",
            where=folder,
            expected="owner.guid, KEK.key and KEK.crt",
            hint="slipstream repo secure-boot-keys makes them; bring KEK.key from where it is kept",
        ) from error
    # Any file of it: the key itself may have been taken to where images are signed.
    numbers = [int(path.stem[3:]) for path in folder.glob("db-*") if path.stem[3:].isdecimal()]
    key, disk = f"db-{max(numbers, default=1) + 1}", Disk()
    made = _make_key(disk, folder / key, f"{name} {key}", passphrases, now)
    contents = dump_signature_list([made.certificate], owner)
    disk.write(folder / f"{key}.esl", contents)
    add = Update("db", contents, now, append=True)
    disk.write(folder / f"{key}-add.auth", _signed(add, signer))
    only = Update("db", contents, now + timedelta(seconds=1))
    disk.write(folder / f"{key}-only.auth", _signed(only, signer))
    return key


def _check_name(name: str) -> None:
    try:
        check_line("--name", name, _NAME_CHARS_MAX)
    except FormatError as error:
        raise UsageError(str(error)) from error
    if not name:
        raise UsageError("--name is empty", expected="whose keys they are")


def _make_key(
    disk: Disk, path: Path, subject: str, passphrases: Passphrases, now: datetime
) -> ImageSigner:
    """A key and its certificate, in two files beside each other."""
    encryption = key_encryption("Secure Boot", passphrases)
    key = rsa.generate_private_key(65537, RSA_BITS_MIN)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    disk.write(path.with_name(f"{path.name}.key"), pem, mode=0o600)
    disk.write(path.with_name(f"{path.name}.crt"), certificate.public_bytes(Encoding.PEM))
    return ImageSigner(key, certificate)


def _signed(update: Update, signer: ImageSigner) -> bytes:
    return dump_update(update, signer.key, signer.certificate)
