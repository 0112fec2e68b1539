"""The trusted set: TUF's rules in TUF's order, without clock, network or disk.

Bytes go in, in the order of the TUF specification's section 5 (client workflow), and either
become trusted or raise Rejected:

    root, root N+1, ...  -> close_root -> timestamp -> snapshot -> targets -> delegated roles

What the device stored earlier goes in by remember_*: it is verified again under today's root and
serves as the floor below which nothing new may fall, even when it has expired. Only what update_*
accepts is current. One reference time holds for the whole set, so that no step straddles an
expiry. Calls out of order are mistakes of the caller: RuntimeError.

Not here: fetching and storing (installer/refresh.py), what a single file must be
(metadata_rules.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.metadata import TargetFile as SignedTarget

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, Expired, FormatError, Rejected, RolledBack
from slipstream.delta.limits import (
    DELEGATIONS_MAX,
    ROOT_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from slipstream.delta.metadata_rules import (
    Delegator,
    check_signed,
    parse_metadata,
    role_identities,
)
from slipstream.delta.target_file import TargetFile

__all__ = ["MetadataFile", "RoleWanted", "TargetFile", "TrustedSet"]


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """A metadata file to fetch: `path` below the metadata folder, percent-encoded, and its cap."""

    role: str
    path: str
    size_max: int


@dataclass(frozen=True, slots=True)
class RoleWanted:
    """The search for a target goes on once this role, delegated by that one, is loaded."""

    role: str
    delegator: str


class TrustedSet:
    """Verified metadata of one refresh. `now` is its reference time: aware, trusted, fixed.

    `root` is the root of trust that the device's image carries; it is verified by itself alone.
    Raises Rejected if it is not sound.
    """

    def __init__(self, root: bytes, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError("the reference time must be aware (UTC)")
        self.now = now
        metadata = parse_metadata(root, Root, "root")
        check_signed(metadata.signed, Root.type, metadata)
        self.root = metadata.signed
        self.root_bytes = root
        self._root_closed = False
        self._timestamp: Timestamp | None = None
        self._timestamp_final = False
        self._snapshot: Snapshot | None = None
        self._snapshot_final = False
        self._roles: dict[str, Targets] = {}
        self._digests: dict[str, Digest] = {}  # of what stands in _roles
        self._verified: set[tuple[str, str]] = set()  # (delegator, role)

    # --- root

    @property
    def next_root(self) -> MetadataFile:
        """The root file that may follow the current one."""
        return MetadataFile(Root.type, f"{self.root.version + 1}.root.json", ROOT_BYTES_MAX)

    def update_root(self, raw: bytes) -> None:
        """Take the next root: signed by the current root's keys and by its own (spec 5.3.4).

        Its version is exactly one above the current one. It may have expired: only the last one
        of the chain must not (spec 5.3.10).
        """
        if self._root_closed:
            raise RuntimeError("root after close_root")
        metadata = parse_metadata(raw, Root, "root")
        check_signed(self.root, Root.type, metadata)
        expected = self.root.version + 1
        if metadata.signed.version != expected:
            raise RolledBack(
                "root out of sequence",
                where="root",
                expected=f"version {expected}",
                got=metadata.signed.version,
            )
        check_signed(metadata.signed, Root.type, metadata)
        self.root = metadata.signed
        self.root_bytes = raw

    def close_root(self) -> None:
        """The chain has ended: the current root must not have expired (spec 5.3.10)."""
        self._check_expiry(self.root, Root.type)
        self._root_closed = True

    def revokes_online_keys_since(self, earlier_root: bytes) -> bool:
        """Whether a key of timestamp or snapshot was taken away since `earlier_root`.

        Then the stored timestamp and snapshot are forgotten (spec 5.3.11): whoever stole the key
        may have driven their versions up, and the publisher must be able to come back down.
        `earlier_root` is what the device stored; if it does not parse, nothing is forgotten.
        """
        try:
            earlier = parse_metadata(earlier_root, Root, "stored root").signed
        except FormatError:
            return False
        return any(
            role_identities(earlier, role) - role_identities(self.root, role)
            for role in (Timestamp.type, Snapshot.type)
        )

    # --- timestamp

    @property
    def timestamp_file(self) -> MetadataFile:
        """The timestamp file; it alone never has a version in its name."""
        return MetadataFile(Timestamp.type, "timestamp.json", TIMESTAMP_BYTES_MAX)

    @property
    def timestamp(self) -> Timestamp:
        """The current timestamp; RuntimeError before update_timestamp."""
        if self._timestamp is None or not self._timestamp_final:
            raise RuntimeError("no timestamp yet")
        return self._timestamp

    def remember_timestamp(self, raw: bytes) -> None:
        """Take the stored timestamp as the floor. It may have expired."""
        self._timestamp = self._verify_timestamp(raw)

    def update_timestamp(self, raw: bytes) -> bool:
        """Take the repository's timestamp (spec 5.4).

        True: it is newer than the stored one, store it. False: the same version as the stored
        one, which stays current and must not have expired.
        """
        new = self._verify_timestamp(raw)
        old = self._timestamp
        if old is not None:
            _check_no_rollback(Timestamp.type, old.version, new.version)
            if new.version == old.version:
                self._check_expiry(old, Timestamp.type)
                self._timestamp_final = True
                return False
            _check_no_rollback(
                "snapshot in timestamp", old.snapshot_meta.version, new.snapshot_meta.version
            )
        self._check_expiry(new, Timestamp.type)
        self._timestamp = new
        self._timestamp_final = True
        return True

    def _verify_timestamp(self, raw: bytes) -> Timestamp:
        if not self._root_closed or self._timestamp_final:
            raise RuntimeError("timestamp before close_root, or twice")
        metadata = parse_metadata(raw, Timestamp, "timestamp")
        check_signed(self.root, Timestamp.type, metadata)
        return metadata.signed

    # --- snapshot

    @property
    def snapshot_file(self) -> MetadataFile:
        """The snapshot file that the timestamp names."""
        return self._file_of(Snapshot.type, self.timestamp.snapshot_meta, SNAPSHOT_BYTES_MAX)

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot; RuntimeError before it is final."""
        if self._snapshot is None or not self._snapshot_final:
            raise RuntimeError("no snapshot yet")
        return self._snapshot

    def remember_snapshot(self, raw: bytes) -> bool:
        """Take the stored snapshot as the floor. It may have expired, or been superseded.

        True: it is what the timestamp names, and is current; nothing has to be fetched.
        """
        self._snapshot = self._verify_snapshot(raw)
        try:
            self._check_snapshot_current(self._snapshot, raw)
        except Rejected:
            return False
        self._snapshot_final = True
        return True

    def update_snapshot(self, raw: bytes) -> None:
        """Take the repository's snapshot (spec 5.5): what the timestamp names, nothing in it older.

        Length and hashes, where the timestamp states them, are checked before parsing.
        """
        _check_file(Snapshot.type, self.timestamp.snapshot_meta, raw)
        new = self._verify_snapshot(raw)
        old = self._snapshot
        if old is not None:
            for name, old_meta in old.meta.items():
                new_meta = new.meta.get(name)
                if new_meta is None:
                    raise RolledBack("a role is gone from the snapshot", where=repr(name[:80]))
                _check_no_rollback(f"{name[:80]!r} in snapshot", old_meta.version, new_meta.version)
        self._check_snapshot_current(new, raw)
        self._snapshot = new
        self._snapshot_final = True

    def _verify_snapshot(self, raw: bytes) -> Snapshot:
        if not self._timestamp_final or self._snapshot_final:
            raise RuntimeError("snapshot before timestamp, or twice")
        metadata = parse_metadata(raw, Snapshot, "snapshot")
        check_signed(self.root, Snapshot.type, metadata)
        return metadata.signed

    def _check_snapshot_current(self, snapshot: Snapshot, raw: bytes) -> None:
        meta = self.timestamp.snapshot_meta
        _check_file(Snapshot.type, meta, raw)
        _check_version(Snapshot.type, meta.version, snapshot.version)
        self._check_expiry(snapshot, Snapshot.type)

    # --- targets

    def role_file(self, role: str) -> MetadataFile:
        """The file of the targets role, or of a role delegated by it, that the snapshot names."""
        return self._file_of(role, self._meta_of(role), TARGETS_BYTES_MAX)

    def update_targets(self, raw: bytes) -> None:
        """Take the top-level targets, stored or fetched (spec 5.6)."""
        self.update_delegated(raw, Targets.type, Root.type)

    def update_delegated(self, raw: bytes, role: str, delegator: str) -> None:
        """Take a role's targets, stored or fetched: what the snapshot names, signed as delegated.

        Length and hashes, where the snapshot states them, are checked before parsing.
        """
        signed_by: Delegator
        if delegator == Root.type:
            signed_by = self.root
        elif delegator in self._roles:
            signed_by = self._roles[delegator]
        else:
            raise RuntimeError(f"role {role!r} before its delegator {delegator!r}")
        meta = self._meta_of(role)
        _check_file(role, meta, raw)
        metadata = parse_metadata(raw, Targets, role)
        check_signed(signed_by, role, metadata)
        _check_version(role, meta.version, metadata.signed.version)
        self._check_expiry(metadata.signed, role)
        digest = Digest.of(raw)
        known = self._digests.setdefault(role, digest)
        if digest != known:
            # Where the snapshot pins a version alone, a second delegator could bring a second file.
            raise DigestMismatch("two files of one role", where=role, expected=known, got=digest)
        self._roles[role] = metadata.signed
        self._verified.add((delegator, role))

    @property
    def targets(self) -> Mapping[str, TargetFile]:
        """The targets of the top-level role by path, as an overview of what is published.

        Use find_target to trust one: it also knows the delegations.
        """
        signed = self._roles[Targets.type].targets
        return {path: self._target_of(target) for path, target in signed.items()}

    def find_target(self, path: str) -> TargetFile | RoleWanted | None:
        """The target of that path: from the first role, in preorder, that lists it (spec 5.6.7).

        RoleWanted: load that role with update_delegated, then ask again. None: nobody who may
        speak for this path signed for it, within DELEGATIONS_MAX roles.
        """
        unvisited = [(Targets.type, Root.type)]
        visited: set[str] = set()
        while unvisited and len(visited) <= DELEGATIONS_MAX:
            role, delegator = unvisited.pop()
            if role in visited:
                continue
            if (delegator, role) not in self._verified:
                return RoleWanted(role, delegator)
            signed = self._roles[role]
            target = signed.targets.get(path)
            if target is not None:
                return self._target_of(target)
            visited.add(role)
            if signed.delegations is None:
                continue
            children: list[tuple[str, str]] = []
            for child, terminating in signed.delegations.get_roles_for_target(path):
                children.append((child, role))
                if terminating:
                    unvisited = []
                    break
            unvisited.extend(reversed(children))
        return None

    def _target_of(self, target: SignedTarget) -> TargetFile:
        return TargetFile.of_signed(target, hash_in_name=bool(self.root.consistent_snapshot))

    # --- all roles

    def _meta_of(self, role: str) -> MetaFile:
        meta = self.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise FormatError("the snapshot does not name this role", where=repr(role[:80]))
        return meta

    def _file_of(self, role: str, meta: MetaFile, size_max: int) -> MetadataFile:
        name = f"{quote(role, safe='')}.json"
        if self.root.consistent_snapshot:
            name = f"{meta.version}.{name}"
        size = size_max if meta.length is None else min(meta.length, size_max)
        return MetadataFile(role, name, size)

    def _check_expiry(self, signed: Signed, role: str) -> None:
        if signed.is_expired(self.now):
            raise Expired(
                "metadata has expired",
                where=role,
                expected=f"valid at {self.now:%Y-%m-%dT%H:%M:%SZ}",
                got=f"expired {signed.expires:%Y-%m-%dT%H:%M:%SZ}",
                hint="If the device's clock is right, the publisher has to sign again",
            )


def _check_file(role: str, meta: MetaFile, raw: bytes) -> None:
    try:
        meta.verify_length_and_hashes(raw)
    except LengthOrHashMismatchError as error:
        raise DigestMismatch(
            "metadata is not what was signed", where=role, got=str(error)[:300]
        ) from error


def _check_version(role: str, expected: int, got: int) -> None:
    if got != expected:
        raise RolledBack(
            "not the version that was signed for", where=role, expected=expected, got=got
        )


def _check_no_rollback(what: str, old: int, new: int) -> None:
    if new < old:
        raise RolledBack("older than what was trusted", where=what, expected=f">= {old}", got=new)
