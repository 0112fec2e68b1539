"""Signing keys as files: made, found, loaded.

A key is two files in a folder: `<role>-<n>.key`, PKCS#8 PEM, encrypted with the role's passphrase
and readable by its owner alone, and `<role>-<n>.pub`, the public key as PEM. Ed25519. Key ids are
securesystemslib's: SHA-256 of the canonical JSON of the public key.

A key's folder may live anywhere: offline keys are brought for a signing and taken away again. What
is signed, and when, is not decided here (sign.py, rotate.py); a signer from a hardware token can
stand wherever one from a file does.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import PASSPHRASE_CHARS_MIN
from slipstream.server.disk import Disk

# The passphrase of a role's keys; None: the keys are not encrypted.
Passphrases: TypeAlias = Callable[[str], str | None]


def no_passphrase(role: str) -> None:  # noqa: ARG001 - the same for every role
    """`Passphrases` of a repository made with --insecure-no-passphrase."""
    return


def make_key(disk: Disk, folder: Path, role: str, passphrases: Passphrases) -> CryptoSigner:
    """Make the next key of `role` in `folder`. UsageError for a passphrase that is too short."""
    encryption = key_encryption(role, passphrases)
    private = Ed25519PrivateKey.generate()
    name = f"{role}-{_next_number(folder, role)}"
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    disk.write(folder / f"{name}.key", pem, mode=0o600)
    # The public half last: it is by this that a key is found.
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    disk.write(folder / f"{name}.pub", public)
    return CryptoSigner(private)


def key_encryption(role: str, passphrases: Passphrases) -> KeySerializationEncryption:
    """How a new key file of `role` is encrypted. UsageError for a passphrase that is too short."""
    passphrase = passphrases(role)
    if passphrase is None:
        return NoEncryption()
    # The encryption that OpenSSL and `cryptography` write by default stretches with 2048 rounds
    # of PBKDF2 only, so the passphrase itself has to be long.
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise UsageError(
            f"passphrase for the {role} keys is too short",
            expected=f"at least {PASSPHRASE_CHARS_MIN} characters",
            got=len(passphrase),
        )
    return BestAvailableEncryption(passphrase.encode())


class KeyRing:
    """The keys in some folders, found by key id. Loaded keys are kept, so a passphrase is asked once."""

    def __init__(self, folders: Sequence[Path], passphrases: Passphrases) -> None:
        self._folders = tuple(folders)
        self._passphrases = passphrases
        self._loaded: dict[str, Signer] = {}

    def signers(self, role: str, keyids: Iterable[str]) -> list[Signer]:
        """Signers for those of `keyids` whose private half is here, in the order of `keyids`.

        Raises UsageError for a key file that cannot be used: wrong passphrase, readable by others.
        Whether they are enough is decided by who asked (metadata.py: check_threshold).
        """
        files = self.files()
        for keyid in keyids:
            if keyid not in self._loaded and keyid in files:
                key_file = files[keyid].with_suffix(".key")
                if key_file.exists():
                    self._loaded[keyid] = _load_key(key_file, role, self._passphrases)
        return [self._loaded[keyid] for keyid in keyids if keyid in self._loaded]

    def public_key(self, keyid: str) -> Key:
        """The public half of a key in the folders; KeyError when it is not there."""
        return _load_public(self.files()[keyid])

    def files(self) -> dict[str, Path]:
        """The `.pub` file of every key in the folders, by key id."""
        paths = [path for folder in self._folders for path in sorted(folder.glob("*.pub"))]
        return {_load_public(path).keyid: path for path in paths}


def load_private(path: Path, role: str, passphrases: Passphrases) -> PrivateKeyTypes:
    """A private key of any kind from a PEM file. UsageError if it is readable by others, or is none."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UsageError(
            "private key can be read by others",
            where=path,
            expected="mode 600",
            got=f"mode {mode:o}",
            hint=f"chmod 600 {path}; rotate the key if others had access",
        )
    pem = path.read_bytes()
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    passphrase = passphrases(role) if encrypted else None
    if encrypted and passphrase is None:
        raise UsageError("private key is encrypted and no passphrase was given", where=path)
    try:
        return load_pem_private_key(pem, None if passphrase is None else passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "private key cannot be read: wrong passphrase or not a key",
            where=path,
            hint=f"give the passphrase of the {role} keys",
        ) from error


def _load_key(path: Path, role: str, passphrases: Passphrases) -> Signer:
    private = load_private(path, role, passphrases)
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError("not an Ed25519 key", where=path, got=type(private).__name__)
    return CryptoSigner(private)


def _load_public(path: Path) -> Key:
    try:
        public = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("not a public key", where=path) from error
    if not isinstance(public, Ed25519PublicKey):
        raise UsageError("not an Ed25519 key", where=path, got=type(public).__name__)
    return SSlibKey.from_crypto(public)


def _next_number(folder: Path, role: str) -> int:
    numbers = [
        int(path.stem.removeprefix(f"{role}-"))
        for path in folder.glob(f"{role}-*.*")
        if path.stem.removeprefix(f"{role}-").isdecimal()
    ]
    return max(numbers, default=0) + 1
