"""Passwords: argon2id hashes, made and checked beside the event loop, few at a time."""

import asyncio
from dataclasses import dataclass, field

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import LOGINS_AT_ONCE_MAX, PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN


@dataclass
class Passwords:
    """Hashes with the parameters of `hasher`; RFC 9106's second choice (64 MiB) by default."""

    hasher: PasswordHasher = field(default_factory=PasswordHasher)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOGINS_AT_ONCE_MAX))
    _nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The hash of a new password, in PHC's form. UsageError for one that is too short."""
        if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
            raise UsageError(
                "too short for a password, or too long",
                where="$.password",
                expected=f"{PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters",
                got=len(password),
            )
        async with self._turns:
            return await asyncio.to_thread(self.hasher.hash, password)

    async def check(self, hashed: str | None, password: str) -> bool:
        """Whether it is the password. Takes as long for a user who is not there or has none."""
        async with self._turns:
            if self._nobodys is None:
                self._nobodys = await asyncio.to_thread(self.hasher.hash, "nobody's")
            same = await asyncio.to_thread(self._verify, hashed or self._nobodys, password)
        return same and hashed is not None

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self.hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
