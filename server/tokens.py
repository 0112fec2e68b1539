"""Bearer tokens: how they are made, kept and checked.

A device's token is kept only as its SHA-256: 32 random bytes need no slow hash, and a stolen
database lets nobody poll. The operator's token stands in a file of its own that only its
owner can read, made at the first start.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from slipstream.delta.durable import write_durably
from slipstream.delta.errors import SlipstreamError, UsageError

TOKEN_BYTES = 32
_TOKEN_FILE_BYTES_MAX = 4096


class WrongToken(SlipstreamError):
    """No token, or not the right one."""


def make_token() -> str:
    """A fresh token: 32 random bytes, 43 URL-safe characters."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> bytes:
    """What is kept of a token: 32 bytes of SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def check_token(token: str | None, digest: bytes) -> None:
    """Raise WrongToken unless `token` hashes to `digest`; the time taken tells nothing."""
    if token is None:
        raise WrongToken("no token")
    if not hmac.compare_digest(hash_token(token), digest):
        raise WrongToken("not the right token")


def bearer_token(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer ...` header (RFC 6750, 2.1), or None."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def basic_password(header: str | None) -> str | None:
    """The password of an `Authorization: Basic ...` header (RFC 7617), or None."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text.partition(":")[2] or None


def load_token(path: Path, what: str = "the operator's token") -> str:
    """A token from its file; a missing file is made, 0600, with a fresh token.

    Raises UsageError if the file can be read by others, is empty, or cannot be read at all.
    """
    try:
        if not path.exists():
            _make_token_file(path, what)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            text = os.read(descriptor, _TOKEN_FILE_BYTES_MAX).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"cannot read {what}: {error.strerror}", where=path) from error
    if mode & 0o077:
        raise UsageError(
            f"others can read {what}",
            where=path,
            expected="mode 0600",
            got=f"{mode:04o}",
            hint="Run chmod 600 on it; if others had access, delete it: a new one is made",
        )
    if len(text) < TOKEN_BYTES:
        raise UsageError(
            f"{what} is too short",
            where=path,
            expected=f"at least {TOKEN_BYTES} characters",
            got=len(text),
            hint="Delete the file: a new one is made at the next start",
        )
    return text


def _make_token_file(path: Path, what: str) -> None:
    try:
        write_durably(path, (make_token() + "\n").encode(), mode=0o600)
    except OSError as error:
        raise UsageError(
            f"there is no such file, and none can be made for {what}: {error.strerror}",
            where=path,
            hint="Let the server's user write that folder, or name another file",
        ) from error
