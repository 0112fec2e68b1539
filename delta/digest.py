"""A SHA-256 digest as a value that cannot be wrong."""

import hashlib
from dataclasses import dataclass

from slipstream.delta.errors import DigestMismatch, FormatError

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """32 bytes of SHA-256."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != DIGEST_BYTES:
            raise FormatError("not a SHA-256 digest", expected="32 bytes", got=len(self.raw))

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> "Digest":
        """Digest of `data`."""
        return cls(hashlib.sha256(data).digest())

    @classmethod
    def parse_hex(cls, text: str) -> "Digest":
        """Digest of 64 lowercase hexadecimal characters; FormatError otherwise."""
        if len(text) != 2 * DIGEST_BYTES or text.strip("0123456789abcdef"):
            raise FormatError("not a SHA-256 digest", expected="64 hex digits", got=repr(text[:80]))
        return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        return self.raw.hex()

    def __str__(self) -> str:
        return self.raw.hex()

    def check(self, data: bytes | bytearray | memoryview, what: str, where: object = None) -> None:
        """Raise DigestMismatch unless `data` hashes to this digest."""
        got = Digest.of(data)
        if got != self:
            raise DigestMismatch(
                f"{what} is not what was signed", where=where, expected=self, got=got
            )
