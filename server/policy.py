"""repo.json: what a repository was made for, and how long its signatures last.

Keys and thresholds here are those the repository began with; what is in force stands in the root
metadata, which only the root keys can change.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.fields import check_name, check_range
from slipstream.delta.layout import DELTAS_ROLE
from slipstream.delta.limits import EXPIRY_DAYS_MAX, KEYS_MADE_MAX, SALT_BYTES

FORMAT = "slipstream-repo-1"


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """Keys to make, signatures asked for, days until a signature of this role expires."""

    keys: int
    threshold: int
    days: int

    def __post_init__(self) -> None:
        check_range("number of keys", self.keys, 1, KEYS_MADE_MAX)
        check_range("threshold", self.threshold, 1, self.keys)
        check_range("expiry period in days", self.days, 1, EXPIRY_DAYS_MAX)


# Root: two of three, so that one key may be lost and one may be stolen. Targets: one of two, the
# second being the spare in another place. The rest sign unattended, so one key each: a second would
# lie on the same disk. Periods: the time for which a withheld update goes unnoticed (timestamp)
# against how often a person has to fetch the offline keys (root, targets).
DEFAULT_ROLES = {
    "root": RolePolicy(keys=3, threshold=2, days=730),
    "targets": RolePolicy(keys=2, threshold=1, days=365),
    "snapshot": RolePolicy(keys=1, threshold=1, days=30),
    "timestamp": RolePolicy(keys=1, threshold=1, days=7),
    DELTAS_ROLE: RolePolicy(keys=1, threshold=1, days=30),
}
OFFLINE_ROLES = ("root", "targets")


@dataclass(frozen=True, slots=True)
class Policy:
    """repo.json as a value."""

    product: str
    salt: bytes
    encrypted_keys: bool  # whether new key files are encrypted with a passphrase
    roles: dict[str, RolePolicy]

    def __post_init__(self) -> None:
        check_name("product", self.product)
        check_range("length of salt in bytes", len(self.salt), SALT_BYTES, SALT_BYTES)
        if set(self.roles) != set(DEFAULT_ROLES):
            raise FormatError(
                "a repository has exactly these roles",
                expected=", ".join(DEFAULT_ROLES),
                got=", ".join(self.roles),
            )


def make_roles(
    keys: Mapping[str, int], thresholds: Mapping[str, int], days: Mapping[str, int]
) -> dict[str, RolePolicy]:
    """The default roles with an operator's wishes; UsageError for what cannot be.

    A threshold above the default number of keys asks for that many keys.
    """
    for role in (*keys, *thresholds, *days):
        if role not in DEFAULT_ROLES:
            raise UsageError(
                f"no role {role!r} in a repository", expected=" or ".join(DEFAULT_ROLES)
            )
    roles = {}
    for role, default in DEFAULT_ROLES.items():
        count = keys.get(role, max(default.keys, thresholds.get(role, 0)))
        threshold = thresholds.get(role, min(default.threshold, count))
        try:
            roles[role] = RolePolicy(count, threshold, days.get(role, default.days))
        except FormatError as error:
            raise UsageError(f"role {role}: {error}") from error
    return roles


def parse_policy(raw: bytes) -> Policy:
    """Value of repo.json; FormatError for anything else."""
    try:
        wire = msgspec.json.decode(raw, type=_WirePolicy, strict=True)
        salt = bytes.fromhex(wire.salt)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise FormatError(f"not a repository's repo.json: {error}") from error
    if wire.format != FORMAT:
        raise FormatError("unknown repository format", expected=FORMAT, got=repr(wire.format))
    return Policy(wire.product, salt, wire.encrypted_keys, wire.roles)


def dump_policy(policy: Policy) -> bytes:
    """repo.json, indented: people read it."""
    wire = _WirePolicy(
        FORMAT, policy.product, policy.salt.hex(), policy.encrypted_keys, policy.roles
    )
    return msgspec.json.format(msgspec.json.encode(wire), indent=2) + b"\n"


class _WirePolicy(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    product: str
    salt: str
    encrypted_keys: bool
    roles: dict[str, RolePolicy]
