"""What is in force in a repository, and how the next state comes into force.

A state is five signed files: root, targets, deltas, snapshot, timestamp. Each is pinned by the one
behind it, and clients start at the timestamp, so writing it is the one act that puts a new state in
force: before it nothing has changed for anybody, after it everything has. A file that was once
written is never written again, whether or not a killed run left it unused: caches may keep it.

Metadata as values is metadata.py, key files are keys.py, key rotation is rotate.py.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from slipstream.delta.errors import FormatError
from slipstream.delta.layout import DELTAS_ROLE
from slipstream.server.keys import KeyRing, Passphrases
from slipstream.server.metadata import (
    S,
    check_pinned,
    check_signed,
    check_threshold,
    dump_metadata,
    meta_file,
    parse_metadata,
    renewed,
    sign,
)
from slipstream.server.policy import OFFLINE_ROLES
from slipstream.server.repo import Repository, locked

ONLINE_ROLES = (DELTAS_ROLE, "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class InForce:
    """The signed state that clients see. Every signature and pin has been checked."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    deltas: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    def expiries(self) -> dict[str, datetime]:
        """Expiry date of every role."""
        return {
            "root": self.root.signed.expires,
            "targets": self.targets.signed.expires,
            DELTAS_ROLE: self.deltas.signed.expires,
            "snapshot": self.snapshot.signed.expires,
            "timestamp": self.timestamp.signed.expires,
        }


@dataclass(frozen=True, slots=True)
class Signing:
    """What every signing needs: the repository, the keys at hand, and the one time it happens at."""

    repo: Repository
    ring: KeyRing
    now: datetime

    def signers(self, delegator: Root | Targets, role: str) -> list[Signer]:
        """The signers at hand for a role; UsageError when they are fewer than its threshold."""
        duty = delegator.get_delegated_role(role)
        signers = self.ring.signers(role, duty.keyids)
        check_threshold(role, duty, signers)
        return signers

    def sign_role(
        self, delegator: Root | Targets, role: str, contents: S, version: int
    ) -> tuple[Metadata[S], bytes]:
        """Contents with their version and a new expiry date, signed as the delegator demands."""
        signers = self.signers(delegator, role)
        days = self.repo.policy.roles[role].days
        metadata = sign(renewed(contents, version=version, now=self.now, days=days), signers)
        check_signed(delegator, role, metadata)
        return metadata, dump_metadata(metadata)


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long a role's signature still lasts."""

    role: str
    expires: datetime
    remaining: timedelta

    @property
    def expired(self) -> bool:
        return self.remaining <= timedelta(0)

    def __str__(self) -> str:
        if self.expired:
            what = f"{self.role} metadata expired on {self.expires:%Y-%m-%d %H:%M} UTC: devices refuse it"
        else:
            what = f"{self.role} metadata expires in {self.remaining.days} days, {self.expires:%Y-%m-%d %H:%M} UTC"
        offline = " --offline (needs the offline keys)" if self.role in OFFLINE_ROLES else ""
        return f"{what}; renew it with: slipstream repo refresh{offline}"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh signed, and what is due that it could not."""

    signed: tuple[str, ...]
    due: tuple[Expiry, ...]


def read_in_force(repo: Repository) -> InForce:
    """The state that clients see, checked as a client would, but for expiry.

    Checked because the publisher signs what it read: without this, whoever can write to the web
    folder could have a release of his own signed with the offline keys. The chain begins at
    REPO/root.json, not in the web folder: a root made there could list this repository's keys
    beside a stranger's. Raises FormatError and SignatureError.
    """
    root = _read_root(repo)
    delegator = root.signed
    timestamp, _ = _read(repo, "timestamp.json", Timestamp)
    check_signed(delegator, "timestamp", timestamp)
    pin = timestamp.signed.snapshot_meta
    snapshot, raw = _read(repo, f"{pin.version}.snapshot.json", Snapshot)
    check_pinned(snapshot, raw, pin, "snapshot")
    check_signed(delegator, "snapshot", snapshot)
    pin = _pin_of(snapshot.signed, "targets")
    targets, raw = _read(repo, f"{pin.version}.targets.json", Targets)
    check_pinned(targets, raw, pin, "targets")
    check_signed(delegator, "targets", targets)
    pin = _pin_of(snapshot.signed, DELTAS_ROLE)
    deltas, raw = _read(repo, f"{pin.version}.{DELTAS_ROLE}.json", Targets)
    check_pinned(deltas, raw, pin, DELTAS_ROLE)
    check_signed(targets.signed, DELTAS_ROLE, deltas)
    return InForce(root, targets, deltas, snapshot, timestamp)


def put_in_force(
    signing: Signing,
    current: InForce,
    *,
    targets: Targets | None = None,
    deltas: Targets | None = None,
    snapshot: bool = False,
) -> InForce:
    """Sign what changed and put it in force; the timestamp is always signed, and written last.

    `targets` and `deltas` are new contents, None for unchanged; they or `snapshot` bring a new
    snapshot. Everything is signed and checked before anything is written, so missing keys change
    nothing. Raises UsageError (keys), FormatError (too large), OSError.
    """
    files: dict[str, bytes] = {}

    def next_file(role: str, contents: S) -> tuple[Metadata[S], bytes]:
        delegator = root if role != DELTAS_ROLE else new_targets.signed
        version = _unused_version(signing.repo, role, contents.version)
        metadata, raw = signing.sign_role(delegator, role, contents, version)
        files["timestamp.json" if role == "timestamp" else f"{version}.{role}.json"] = raw
        return metadata, raw

    root = current.root.signed
    new_targets, new_deltas, new_snapshot = current.targets, current.deltas, current.snapshot
    contents = deepcopy(current.snapshot.signed)
    if targets is not None:
        new_targets, raw = next_file("targets", targets)
        contents.meta["targets.json"] = meta_file(new_targets.signed.version, raw)
    if deltas is not None:
        new_deltas, raw = next_file(DELTAS_ROLE, deltas)
        contents.meta[f"{DELTAS_ROLE}.json"] = meta_file(new_deltas.signed.version, raw)
    pins = deepcopy(current.timestamp.signed)
    if snapshot or targets is not None or deltas is not None:
        new_snapshot, raw = next_file("snapshot", contents)
        pins.snapshot_meta = meta_file(new_snapshot.signed.version, raw)
    new_timestamp, _ = next_file("timestamp", pins)
    # A delegator that changed its keys must still stand behind what it did not sign anew.
    check_signed(new_targets.signed, DELTAS_ROLE, new_deltas)
    for name, raw in files.items():  # in the order of signing: the timestamp very last
        signing.repo.disk.write(signing.repo.metadata / name, raw)
    return InForce(current.root, new_targets, new_deltas, new_snapshot, new_timestamp)


def put_root_in_force(signing: Signing, current: InForce, root: Root) -> InForce:
    """Sign the next root with the old and the new keys' thresholds, and write it.

    Root versions have no gaps. It is in force at once: what it says of the other roles must already
    be true of their files (rotate.py).
    """
    repo, old = signing.repo, current.root.signed
    days = repo.policy.roles["root"].days
    new = renewed(root, version=old.version + 1, now=signing.now, days=days)
    keyids = list(dict.fromkeys([*old.roles["root"].keyids, *new.roles["root"].keyids]))
    signers = signing.ring.signers("root", keyids)
    check_threshold("root", old.roles["root"], signers)
    check_threshold("root", new.roles["root"], signers)
    metadata = sign(new, signers)
    check_signed(old, "root", metadata)
    check_signed(new, "root", metadata)
    check_signed(new, "timestamp", current.timestamp)
    check_signed(new, "snapshot", current.snapshot)
    check_signed(new, "targets", current.targets)
    raw = dump_metadata(metadata)
    repo.disk.write(repo.metadata / f"{new.version}.root.json", raw)
    repo.disk.write(repo.trusted_root, raw)  # killed before: the chain is walked one step more
    return InForce(metadata, current.targets, current.deltas, current.snapshot, current.timestamp)


def refresh(
    repo: Repository,
    *,
    passphrases: Passphrases,
    now: datetime,
    offline: bool = False,
    keys: Sequence[Path] = (),
) -> Refreshed:
    """Sign anew what would expire: what cron runs, well before the timestamp's period is over.

    The timestamp is signed every time, snapshot and deltas when half of their period is over; with
    `offline` root and targets as well, for which their keys must be here. Afterwards `due` names
    every role with less than a quarter of its period left. Raises Busy, UsageError (keys).
    """
    with locked(repo):
        current = read_in_force(repo)
        signing = Signing(repo, KeyRing((repo.keys, *keys), passphrases), now)
        stale = set(_running_out(repo, current, now, part=2))
        signed = []
        if offline and "root" in stale:
            current = put_root_in_force(signing, current, current.root.signed)
            signed.append("root")
        targets = current.targets.signed if offline and "targets" in stale else None
        deltas = current.deltas.signed if DELTAS_ROLE in stale else None
        snapshot = bool(targets or deltas or "snapshot" in stale)
        current = put_in_force(signing, current, targets=targets, deltas=deltas, snapshot=snapshot)
        signed += ["targets"] * bool(targets) + [DELTAS_ROLE] * bool(deltas)
        signed += ["snapshot"] * snapshot + ["timestamp"]
        return Refreshed(tuple(signed), tuple(_running_out(repo, current, now, part=4).values()))


def expiries(repo: Repository, now: datetime) -> tuple[Expiry, ...]:
    """How long each role's signature lasts, the shortest first."""
    found = [Expiry(role, at, at - now) for role, at in read_in_force(repo).expiries().items()]
    return tuple(sorted(found, key=lambda expiry: expiry.expires))


def _running_out(
    repo: Repository, current: InForce, now: datetime, *, part: int
) -> dict[str, Expiry]:
    """Roles with less than 1/part of their period left."""
    return {
        role: Expiry(role, expires, expires - now)
        for role, expires in current.expiries().items()
        if (expires - now) * part < timedelta(days=repo.policy.roles[role].days)
    }


def _unused_version(repo: Repository, role: str, version: int) -> int:
    """The version behind `version` and behind every file that a killed run left."""
    if role == "timestamp":  # the one name without a version
        return version + 1
    return 1 + max([version, *_versions(repo, role)])


def _versions(repo: Repository, role: str) -> list[int]:
    suffix = f".{role}.json"
    names = [path.name.removesuffix(suffix) for path in repo.metadata.glob(f"*{suffix}")]
    return [int(name) for name in names if name.isdecimal()]


def _read_root(repo: Repository) -> Metadata[Root]:
    """The newest root, after the chain from the trusted one has been walked."""
    try:
        trusted = repo.trusted_root.read_bytes()
    except FileNotFoundError as error:
        raise FormatError(
            "the trusted root is missing",
            where=repo.trusted_root,
            hint="Restore it from the backup, or copy the root.json of a device there",
        ) from error
    root = parse_metadata(trusted, Root, repo.trusted_root)
    check_signed(root.signed, "root", root)
    _, served = _read(repo, f"{root.signed.version}.root.json", Root)
    if served != trusted:
        raise FormatError(
            "the root that is served is not the one this repository trusts",
            where=repo.metadata / f"{root.signed.version}.root.json",
            expected=f"the bytes of {repo.trusted_root}",
            hint="Somebody wrote to the web folder: take public/ from a mirror or a backup",
        )
    for version in range(root.signed.version + 1, max(_versions(repo, "root")) + 1):
        new, _ = _read(repo, f"{version}.root.json", Root)
        check_signed(root.signed, "root", new)
        check_signed(new.signed, "root", new)
        root = new
    return root


def _pin_of(snapshot: Snapshot, role: str) -> MetaFile:
    pin = snapshot.meta.get(f"{role}.json")
    if pin is None:
        raise FormatError(f"the snapshot does not name {role}.json", where="snapshot")
    return pin


def _read(repo: Repository, name: str, kind: type[S]) -> tuple[Metadata[S], bytes]:
    path = repo.metadata / name
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise FormatError("metadata is missing", where=path) from error
    return parse_metadata(raw, kind, path), raw
