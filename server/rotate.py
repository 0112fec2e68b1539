"""Replacing a key: the new one in, the old one out, and every state between is accepted.

For root itself one new root does it, signed by the old threshold and the new one. For deltas, new
targets do it, and come into force together with deltas signed by the new key. For timestamp,
snapshot and targets the keys stand in root, which is in force as soon as it is written, so it takes
two: root N+1 knows both keys, the role is signed by both, root N+2 knows the new key only. A client
finds valid signatures whenever it looks.

REPO/rotation.json remembers a rotation that has begun. Killed anywhere and called again, the same
new key takes over where it stopped.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.layout import DELTAS_ROLE
from slipstream.server.keys import KeyRing, Passphrases, make_key, no_passphrase
from slipstream.server.metadata import check_threshold
from slipstream.server.policy import DEFAULT_ROLES
from slipstream.server.repo import Repository, locked
from slipstream.server.sign import InForce, Signing, put_in_force, put_root_in_force, read_in_force


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did. The key ids are SHA-256 in hexadecimal."""

    role: str
    old: str
    new: str
    root_version: int


class _Begun(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    old: str
    new: str


def rotate_key(
    repo: Repository,
    role: str,
    *,
    passphrases: Passphrases,
    now: datetime,
    old: str | None = None,
    keys: Sequence[Path] = (),
) -> Rotated:
    """Replace a key of `role` by a new one.

    `old` is the beginning of the key id to take out; default: the role's longest-serving key. Its
    private half need not be there. The keys that sign must be: root's for root, timestamp, snapshot
    and targets; targets' for targets and deltas. `keys` are further folders to look for them.
    Raises UsageError (role, key, missing keys), Busy.
    """
    if role not in DEFAULT_ROLES:
        raise UsageError(f"no role {role!r}", expected=" or ".join(DEFAULT_ROLES))
    with locked(repo):
        current = read_in_force(repo)
        signing = Signing(repo, KeyRing((repo.keys, *keys), passphrases), now)
        begun = _read_begun(repo, role)
        if begun is None:
            begun = _choose(signing, current, role, old)
            words = passphrases if repo.policy.encrypted_keys else no_passphrase
            begun.new = make_key(repo.disk, repo.keys, role, words).public_key.keyid
            repo.disk.write(_begun_file(repo), msgspec.json.encode(begun))
        new = _public_key(signing.ring, begun.new)
        if role == "root":
            current = _rotate_root(signing, current, begun, new)
        elif role == DELTAS_ROLE:
            current = _rotate_deltas(signing, current, begun, new)
        else:
            current = _rotate_listed(signing, current, begun, new)
        repo.disk.remove(_begun_file(repo))
        return Rotated(role, begun.old, begun.new, current.root.signed.version)


def _rotate_root(signing: Signing, current: InForce, begun: _Begun, new: Key) -> InForce:
    root = deepcopy(current.root.signed)
    if begun.new in root.roles["root"].keyids:
        return current
    root.add_key(new, "root")
    root.revoke_key(begun.old, "root")
    return put_root_in_force(signing, current, root)


def _rotate_deltas(signing: Signing, current: InForce, begun: _Begun, new: Key) -> InForce:
    targets = deepcopy(current.targets.signed)
    if begun.new in targets.get_delegated_role(DELTAS_ROLE).keyids:
        return current
    targets.add_key(new, DELTAS_ROLE)
    targets.revoke_key(begun.old, DELTAS_ROLE)
    return put_in_force(signing, current, targets=targets, deltas=current.deltas.signed)


def _rotate_listed(signing: Signing, current: InForce, begun: _Begun, new: Key) -> InForce:
    """Rotate a key of timestamp, snapshot or targets: roles whose keys root lists."""
    role = begun.role
    if begun.new not in current.root.signed.roles[role].keyids:
        current = put_root_in_force(signing, current, _with(current, role, new))
    if begun.old not in current.root.signed.roles[role].keyids:
        return current
    # Signed by all keys of the role that are here, the old one among them: valid for devices that
    # know root N+1 and for those that know N+2. A device that still has root N fetches N+1 first.
    without = deepcopy(current.root.signed)
    without.revoke_key(begun.old, role)
    check_threshold(
        role, without.roles[role], signing.ring.signers(role, without.roles[role].keyids)
    )
    current = put_in_force(
        signing,
        current,
        targets=current.targets.signed if role == "targets" else None,
        snapshot=role == "snapshot",
    )
    return put_root_in_force(signing, current, without)


def _with(current: InForce, role: str, new: Key) -> Root:
    root = deepcopy(current.root.signed)
    root.add_key(new, role)
    return root


def _choose(signing: Signing, current: InForce, role: str, old: str | None) -> _Begun:
    """The key to take out, after a look whether the keys that must sign its end are here."""
    listed = _duty(current, role).keyids
    matching = [keyid for keyid in listed if keyid.startswith(old or "")]
    if not matching or (old is not None and len(matching) > 1):
        raise UsageError(
            f"not one key of {role} that begins with {old!r}", expected=" or ".join(listed)
        )
    signer = "targets" if role == DELTAS_ROLE else "root"
    duty = _duty(current, signer)
    check_threshold(signer, duty, signing.ring.signers(signer, duty.keyids))
    return _Begun(role, matching[0], new="")


def _duty(current: InForce, role: str) -> Role:
    delegator = current.targets.signed if role == DELTAS_ROLE else current.root.signed
    return delegator.get_delegated_role(role)


def _public_key(ring: KeyRing, keyid: str) -> Key:
    try:
        return ring.public_key(keyid)
    except KeyError as error:
        raise UsageError(
            "the new key of an unfinished rotation is gone",
            expected=keyid,
            hint="Bring its files back to keys/, or remove rotation.json to begin with another",
        ) from error


def _begun_file(repo: Repository) -> Path:
    return repo.path / "rotation.json"


def _read_begun(repo: Repository, role: str) -> _Begun | None:
    path = _begun_file(repo)
    if not path.exists():
        return None
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=_Begun)
    except msgspec.DecodeError as error:
        raise FormatError(f"not a rotation: {error}", where=path) from error
    if begun.role != role:
        raise UsageError(
            f"a rotation of {begun.role} is unfinished", hint=f"Rotate {begun.role} first"
        )
    return begun
