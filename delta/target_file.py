"""A file that the repository's keys signed for: what it must be, and where it is.

Made from verified metadata only (trust.py); what it describes is still to be fetched and checked.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tuf.api.metadata import TargetFile as SignedTarget

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target that the repository's keys signed: `path`, size in bytes, digest, custom data.

    `file_path` is where to fetch it below the targets folder, percent-encoded. `hashes` are all
    signed hashes by algorithm, in hex; the SHA-256 is among them.
    """

    path: str
    length: int
    digest: Digest
    custom: Any
    file_path: str
    hashes: Mapping[str, str]

    @classmethod
    def of_signed(cls, target: SignedTarget, *, hash_in_name: bool) -> "TargetFile":
        """A target from verified metadata; FormatError if it has no sound SHA-256.

        `hash_in_name`: the repository has consistent snapshots, and names files by their digest.
        """
        sha256 = target.hashes.get("sha256")
        if sha256 is None:
            raise FormatError("target without SHA-256", where=repr(target.path[:200]))
        digest = Digest.parse_hex(sha256)
        folder, slash, name = target.path.rpartition("/")
        if hash_in_name:
            name = f"{digest}.{name}"
        return cls(
            path=target.path,
            length=target.length,
            digest=digest,
            custom=target.custom,
            file_path=quote(f"{folder}{slash}{name}"),
            hashes=dict(target.hashes),
        )

    def check(self, data: bytes) -> None:
        """Raise DigestMismatch unless `data` is this target: its length and every signed hash."""
        if len(data) != self.length:
            raise DigestMismatch(
                "target of another length", where=self.path, expected=self.length, got=len(data)
            )
        self.digest.check(data, "target", self.path)
        for algorithm, expected in self.hashes.items():
            try:
                got = hashlib.new(algorithm, data).hexdigest()
            except (ValueError, TypeError) as error:
                # TypeError: a variable-length hash such as shake_256. What cannot be checked
                # does not pass.
                raise DigestMismatch(
                    "signed hash of unknown kind", where=self.path, got=repr(algorithm[:40])
                ) from error
            if got != expected:
                raise DigestMismatch(
                    f"target is not what was signed ({algorithm})",
                    where=self.path,
                    expected=expected[:128],
                    got=got,
                )
