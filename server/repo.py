"""The repository folder: where its parts stand, how it begins, who may change it.

    REPO/repo.json       policy: product, salt, expiry periods (policy.py)
    REPO/root.json       the newest root this publisher accepted: where it begins to verify (sign.py)
    REPO/uki-certs.pem   certificates that UKIs must be signed by; need not be there (secure_boot.py)
    REPO/keys/           key files, mode 0700 (keys.py)
    REPO/releases/<V>/   release.json: what a release was published from (releases.py)
    REPO/work/           payloads being built; emptied by every publish
    REPO/lock            held by whoever changes the repository
    REPO/public/         what any web server serves: metadata/, targets/, blobs/

Not here: what is signed after the beginning (sign.py), and publishing (publish.py).
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Snapshot, Timestamp

from slipstream.delta.errors import Busy, FormatError, UsageError
from slipstream.delta.layout import DELTAS_ROLE
from slipstream.delta.limits import SALT_BYTES
from slipstream.server.disk import Disk
from slipstream.server.keys import Passphrases, make_key
from slipstream.server.metadata import (
    S,
    dump_metadata,
    first_root,
    first_targets,
    meta_file,
    renewed,
    sign,
)
from slipstream.server.policy import DEFAULT_ROLES, Policy, RolePolicy, dump_policy, parse_policy


@dataclass(frozen=True, slots=True)
class Repository:
    """An existing repository: its folder, its policy, and the way to its disk."""

    path: Path
    policy: Policy
    disk: Disk = field(default_factory=Disk)

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def public(self) -> Path:
        """The folder to serve."""
        return self.path / "public"

    @property
    def metadata(self) -> Path:
        return self.public / "metadata"

    @property
    def trusted_root(self) -> Path:
        """The newest root accepted here. Outside `public`, as a device keeps its own."""
        return self.path / "root.json"

    @property
    def uki_certs(self) -> Path:
        """Certificates, as PEM: every UKI that is published must be signed by one of them."""
        return self.path / "uki-certs.pem"

    def release(self, version: str) -> Path:
        """The folder of a release's record."""
        return self.path / "releases" / version

    def blob(self, name: str) -> Path:
        """The file of a blob named as in delta/layout.py."""
        return self.public / name

    def target(self, path: str, digest: str) -> Path:
        """The file of a TUF target under its consistent-snapshot name: <folder>/<sha256>.<name>."""
        folder, _, name = path.rpartition("/")
        return self.public / "targets" / folder / f"{digest}.{name}"


def init_repo(
    path: Path,
    product: str,
    *,
    passphrases: Passphrases,
    now: datetime,
    roles: Mapping[str, RolePolicy] = DEFAULT_ROLES,
    salt: bytes | None = None,
    disk: Disk | None = None,
) -> Repository:
    """Make a repository: keys, first metadata, policy.

    `salt` (32 bytes, default random) salts the hash trees of all images of the product, for good.
    UsageError if there is something at `path`. All or nothing: it is made under another name beside
    `path` and renamed. What fails leaves nothing there; what a killed run left is made anew.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            "there is something already",
            where=path,
            expected="no such folder, or an empty one",
            hint="A second init would throw away keys that devices trust",
        )
    try:
        policy = Policy(
            product,
            secrets.token_bytes(SALT_BYTES) if salt is None else salt,
            encrypted_keys=any(passphrases(role) is not None for role in roles),
            roles=dict(roles),
        )
    except FormatError as error:
        raise UsageError(str(error)) from error
    staging = path.absolute().with_name(f".{path.name}.init")
    shutil.rmtree(staging, ignore_errors=True)
    repo = Repository(staging, policy, disk or Disk())
    try:
        _fill(repo, passphrases, now)
        repo.disk.rename(staging, path.absolute())
    except (Exception, KeyboardInterrupt):
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Repository(path.absolute(), policy, repo.disk)


def _fill(repo: Repository, passphrases: Passphrases, now: datetime) -> None:
    """Write all that a new repository holds."""
    for folder in (repo.metadata, repo.public / "targets", repo.public / "blobs", repo.work):
        repo.disk.make_folder(folder)
    repo.disk.make_folder(repo.path / "releases")
    repo.disk.make_folder(repo.keys, mode=0o700)
    files = _first_metadata(repo, passphrases, now)
    for name, raw in files.items():
        repo.disk.write(repo.metadata / name, raw)
    repo.disk.write(repo.trusted_root, files["1.root.json"])
    repo.disk.write(repo.path / "repo.json", dump_policy(repo.policy))


def open_repo(path: Path, *, disk: Disk | None = None) -> Repository:
    """The repository at `path`; UsageError when there is none, or none that can be read."""
    try:
        raw = (path / "repo.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            "not a repository: it has no repo.json",
            where=path,
            hint="slipstream repo init makes one",
        ) from error
    try:
        policy = parse_policy(raw)
    except FormatError as error:
        raise UsageError(
            str(error), where=path / "repo.json", hint="Restore it from the backup"
        ) from error
    return Repository(path.absolute(), policy, disk or Disk())


@contextmanager
def locked(repo: Repository) -> Iterator[None]:
    """Hold the repository against other publishers; Busy if one is at work.

    The kernel lets go of the lock when its holder dies, so a killed publisher leaves none behind.
    """
    descriptor = os.open(repo.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                "another process is changing the repository",
                where=repo.path,
                hint="Wait until it is done",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _first_metadata(repo: Repository, passphrases: Passphrases, now: datetime) -> dict[str, bytes]:
    """Version 1 of everything, in the order in which it is written."""
    policies = repo.policy.roles
    signers = {
        role: [make_key(repo.disk, repo.keys, role, passphrases) for _ in range(policy.keys)]
        for role, policy in policies.items()
    }
    keys = {role: [signer.public_key for signer in signers[role]] for role in signers}
    root = first_root(keys, {role: policy.threshold for role, policy in policies.items()})
    targets = first_targets(keys[DELTAS_ROLE], policies[DELTAS_ROLE].threshold)
    deltas = first_targets([], 1)
    deltas.delegations = None

    def dump(role: str, signed: S) -> bytes:
        fresh = renewed(signed, version=1, now=now, days=policies[role].days)
        return dump_metadata(sign(fresh, signers[role]))

    files = {
        "1.root.json": dump("root", root),
        "1.targets.json": dump("targets", targets),
        "1.deltas.json": dump(DELTAS_ROLE, deltas),
    }
    snapshot = Snapshot(
        version=1,
        meta={
            "targets.json": meta_file(1, files["1.targets.json"]),
            "deltas.json": meta_file(1, files["1.deltas.json"]),
        },
    )
    files["1.snapshot.json"] = dump("snapshot", snapshot)
    timestamp = Timestamp(version=1, snapshot_meta=meta_file(1, files["1.snapshot.json"]))
    files["timestamp.json"] = dump("timestamp", timestamp)
    return files
