"""The same verdicts as python-tuf's ngclient, on thousands of repositories that rot at random.

Each repository lives through three stages. Before each, it is changed at random (versions,
expiries, keys, thresholds, signatures, hashes, lengths, delegations, files on the server, files
in the stored state), then both clients, each with its own state, refresh at the same time and
fetch the same targets. Where they differ, a rule of ours must say why: EXPLANATIONS names them.

SLIPSTREAM_DIFFERENTIAL sets the number of repositories (default 2,000) and
SLIPSTREAM_DIFFERENTIAL_SEED the first seed; every failure names its seed.
"""

import asyncio
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError, LengthOrHashMismatchError, StorageError
from tuf.api.metadata import Metadata, Snapshot, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from slipstream.delta.errors import SlipstreamError
from slipstream.installer.metadata_store import MetadataStore
from slipstream.installer.refresh import fetch_target, refresh
from tests.conformance.repository import NOW, MemoryFetcher, Repository

COUNT = int(os.environ.get("SLIPSTREAM_DIFFERENTIAL", "2000"))
SEED = int(os.environ.get("SLIPSTREAM_DIFFERENTIAL_SEED", "1"))
PARTS = 4
STAGES = 3
PATHS = ("x", "a/b", "deltas/1/y", "missing")

# Why we may refuse what ngclient accepts (or, for the last, accept what it refuses).
EXPLANATIONS = {
    "twin": "one public key under two key ids counts once (ngclient: twice)",
    "strict JSON": "duplicate keys, floats and unread numbers are refused (ngclient: last wins)",
    "received bytes": "signatures are for the bytes received, not for what they mean",
    "stored snapshot": "a stored snapshot must have the hash that the timestamp states (spec 5.5.2;"
    " ngclient takes it by its version)",
    "5.3.11": "stored timestamp and snapshot are forgotten once an online key was revoked, also"
    " if they still verify (ngclient keeps those that do)",
}


class MemoryStore(MetadataStore):
    """The store without fsync: 12,000 refreshes would wait for the disk otherwise."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))
        self.files: dict[str, bytes] = {}

    def read(self, role: str) -> bytes | None:
        return self.files.get(role)

    def write(self, role: str, raw: bytes) -> None:
        self.files[role] = raw

    def remove(self, role: str) -> None:
        self.files.pop(role, None)

    def read_root(self, version: int) -> bytes | None:
        return self.files.get(f"{version}/root")

    def write_root(self, version: int, raw: bytes) -> None:
        self.files[f"{version}/root"] = raw


class TheirFetcher(FetcherInterface):
    """The same repository, for ngclient."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def _fetch(self, url: str) -> Iterator[bytes]:
        raw = self.repository.fetch(url.removeprefix("mem://"))
        if raw is None:
            raise DownloadHTTPError("not there", 404)
        return iter([raw])


class Ours:
    def __init__(self, root: bytes, repository: Repository) -> None:
        self.root, self.store = root, MemoryStore()
        self.fetcher = MemoryFetcher(repository)
        self.said: list[str] = []

    async def run(self, now: datetime) -> dict[str, object]:
        """What became of a refresh: versions and targets, or the error under "refused"."""
        try:
            trusted = await refresh(self.fetcher, self.store, self.root, now, say=self.said.append)
        except SlipstreamError as error:
            return {"refused": error}
        result: dict[str, object] = {
            "root": trusted.root.version,
            "timestamp": trusted.timestamp.version,
            "snapshot": trusted.snapshot.version,
        }
        for path in PATHS:
            try:
                result[path] = await fetch_target(
                    self.fetcher, self.store, trusted, path, size_max=1000
                )
            except SlipstreamError:
                result[path] = None
        return result


class Theirs:
    def __init__(self, root: bytes, repository: Repository, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.fetcher = TheirFetcher(repository)
        folder.mkdir()

    def run(self, now: datetime) -> dict[str, object]:
        try:
            updater = Updater(
                str(self.folder),
                "mem://metadata/",
                target_base_url="mem://targets/",
                fetcher=self.fetcher,
                bootstrap=self.root,
            )
            updater._trusted_set.reference_time = now
            updater.refresh()
        except Exception as error:
            return {"refused": error}
        trusted = updater._trusted_set
        result: dict[str, object] = {
            "root": trusted.root.version,
            "timestamp": trusted.timestamp.version,
            "snapshot": trusted.snapshot.version,
        }
        for path in PATHS:
            try:
                target = updater.get_targetinfo(path)
                if target is None:
                    result[path] = None
                    continue
                kept = self.folder / "kept"
                updater.download_target(target, str(kept))
                result[path] = kept.read_bytes()
            except Exception:
                result[path] = None
        return result

    def keeps_a_snapshot_of_another_hash(self) -> bool:
        """Whether the stored snapshot has the signed version, but not the signed hash or length."""
        try:
            timestamp = Metadata[Timestamp].from_file(str(self.folder / "timestamp.json")).signed
            raw = (self.folder / "snapshot.json").read_bytes()
            version = Metadata[Snapshot].from_bytes(raw).signed.version
        except (StorageError, DeserializationError, OSError):
            return False
        try:
            timestamp.snapshot_meta.verify_length_and_hashes(raw)
        except LengthOrHashMismatchError:
            return version == timestamp.snapshot_meta.version
        return False


class Scenario:
    """One repository, its chance, and what was done to it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.repository = Repository(
            hashes=self.random.random() < 0.4, consistent=self.random.random() < 0.8
        )
        self.now = NOW
        self.flags: set[str] = set()
        self.done: list[str] = []
        self._decorate()
        first = self.repository.files["metadata/1.root.json"]
        self.ours = Ours(first, self.repository)
        self.theirs = Theirs(first, self.repository, folder)

    def _decorate(self) -> None:
        repository, chance = self.repository, self.random
        repository.add_target("targets", "x", b"content of x")
        if chance.random() < 0.7:
            repository.delegate(
                "deltas",
                paths=chance.choice([["*"], ["*/*"], ["deltas/*/*"]]),
                terminating=chance.random() < 0.3,
            )
            repository.add_target("deltas", "deltas/1/y", b"content of y")
            if chance.random() < 0.5:
                repository.delegate("other", by=chance.choice(["targets", "deltas"]))
                repository.add_target("other", "a/b", b"content of b")
        self.publish_all()

    # --- changes

    def publish_all(self) -> None:
        roles = [role for role in self.repository.signed if role not in FIXED]
        self.repository.publish(*roles, "targets", "snapshot", "timestamp")

    def any_role(self) -> str:
        return self.random.choice(list(self.repository.signed))

    def top_role(self) -> str:
        return self.random.choice(["root", "timestamp", "snapshot", "targets"])

    def any_file(self) -> str | None:
        """A served metadata file, most often one that will be asked for."""
        names = [name for name in self.repository.files if name.startswith("metadata/")]
        return self.random.choice(names[-5:]) if names else None

    def change_version(self) -> None:
        signed = self.repository.signed[self.any_role()]
        signed.version = max(1, signed.version + self.random.choice([-2, -1, 1, 5, 1000]))

    def change_expiry(self) -> None:
        days = self.random.choice([-400, -1, 0, 1, 3, 60])
        self.repository.signed[self.any_role()].expires = self.now + timedelta(days=days)

    def heal_expiries(self) -> None:
        for signed in self.repository.signed.values():
            signed.expires = self.now + timedelta(days=30)

    def change_threshold(self) -> None:
        self.repository.root.roles[self.top_role()].threshold = self.random.choice([1, 1, 2, 3])

    def add_key(self) -> None:
        self.repository.add_key(self.top_role())

    def add_twin_key(self) -> None:
        """The key a role has already, under another id."""
        role = self.top_role()
        if not self.repository.signers[role]:
            return
        signer = self.repository.signers[role][0]
        key = deepcopy(signer.public_key)
        key.keyid = "twin" + key.keyid
        self.repository.add_key(role, CryptoSigner(signer._private_key, key))
        self.repository.root.roles[role].threshold = 2
        self.repository.publish("root")
        self.flags.add("twin")

    def rotate(self) -> None:
        role = self.random.choice(["timestamp", "snapshot", "targets"])
        self.repository.rotate(role)
        self.repository.publish("root")

    def rotate_root(self) -> None:
        if self.random.random() < 0.8:
            self.repository.rotate_root()
        else:
            self.repository.rotate("root")

    def drop_signer(self) -> None:
        signers = self.repository.signers[self.any_role()]
        if signers:
            signers.pop()

    def sign_with_stranger(self) -> None:
        role = self.any_role()
        self.repository.signers[role] = [self.repository.new_key()]

    def restore_signers(self) -> None:
        """The role's keys are what signs for it now; the old root signs that."""
        role = self.random.choice(["timestamp", "snapshot", "targets"])
        root = self.repository.root
        for key_id in list(root.roles[role].keyids):
            root.revoke_key(key_id, role)
        self.repository.signers[role] = []
        for _ in range(root.roles[role].threshold):
            self.repository.add_key(role)
        self.repository.publish("root")

    def change_meta(self) -> None:
        """Timestamp or snapshot lie about what follows."""
        repository = self.repository
        metas = [repository.timestamp.snapshot_meta, *repository.snapshot.meta.values()]
        meta = self.random.choice(metas)
        match self.random.randrange(4):
            case 0:
                meta.version = max(1, meta.version + self.random.choice([-1, 1]))
            case 1:
                meta.hashes = {"sha256": "46" * 32}
            case 2:
                meta.length = self.random.choice([0, 10, 100_000])
            case _:
                meta.hashes = {self.random.choice(["sha512", "md6"]): "00"}

    def forget_role_in_snapshot(self) -> None:
        meta = self.repository.snapshot.meta
        if meta:
            del meta[self.random.choice(list(meta))]

    def damage_file(self) -> None:
        name = self.any_file()
        if name is None:
            return
        files, chance = self.repository.files, self.random
        raw = files[name]
        match chance.randrange(7):
            case 0:
                files[name] = raw[: chance.randrange(len(raw) + 1)]
            case 1:
                position = chance.randrange(max(1, len(raw)))
                flipped = bytes([raw[position] ^ 1 << chance.randrange(8)]) if raw else b""
                files[name] = raw[:position] + flipped + raw[position + 1 :]
                self.flags.add("strict JSON")  # a flip may make a 1.5 or 1e5 of a number
            case 2:
                files[name] = raw + chance.choice([b" ", b"\n", b"x", b"{}"])
            case 3:
                del files[name]
            case 4:
                files[name] = files[chance.choice(list(files))]
            case 5:
                files[name] = raw.replace(
                    b'"spec_version"', b'"spec_version": "1.0.31", "spec_version"', 1
                )
                self.flags.add("strict JSON")
            case _:
                document = self._parsed(raw)
                if document is not None:
                    document["signed"]["version"] = None
                    files[name] = json.dumps(document).encode()
                    self.flags.add("received bytes")

    def edit_signatures(self) -> None:
        name = self.any_file()
        document = None if name is None else self._parsed(self.repository.files[name])
        if name is None or document is None:
            return
        signatures = document["signatures"]
        match self.random.randrange(4):
            case 0:
                signatures.clear()
            case 1:
                signatures.extend(deepcopy(signatures))
            case 2:
                for signature in signatures:
                    signature["sig"] = self.random.choice(["", "00", "0" * 128, "xy"])
            case _:
                signatures.append({"keyid": "unknown", "sig": "00" * 64})
        self.repository.files[name] = json.dumps(document).encode()

    @staticmethod
    def _parsed(raw: bytes) -> dict | None:
        try:
            document = json.loads(raw)
            document["signed"]["version"], document["signatures"][:0]
        except (ValueError, KeyError, TypeError):
            return None
        return document

    def serve_old_file(self) -> None:
        """An older version under the name of the newest."""
        files = self.repository.files
        role = self.random.choice(["root", "snapshot", "targets"])
        names = [name for name in files if name.endswith(f".{role}.json")]
        if len(names) > 1:
            files[names[-1]] = files[self.random.choice(names[:-1])]

    def change_content(self) -> None:
        content = bytes(self.random.randrange(256) for _ in range(8))
        role = self.random.choice([role for role in self.repository.signed if role not in FIXED])
        self.repository.add_target(role, self.random.choice(PATHS[:3]), content)

    def damage_target(self) -> None:
        names = [name for name in self.repository.files if name.startswith("targets/")]
        name = self.random.choice(names)
        raw = self.repository.files[name]
        self.repository.files[name] = self.random.choice([b"", raw + b"x", raw[:-1], raw[::-1]])

    def change_delegation(self) -> None:
        targets = self.repository.targets()
        match self.random.randrange(5):
            case 0 if targets.delegations is not None:
                targets.delegations = None
            case 1:
                self.repository.delegate("late", paths=["a/*"])
                self.repository.add_target("late", "a/b", b"late b")
            case 2 if targets.delegations is not None and targets.delegations.roles:
                role = self.random.choice(list(targets.delegations.roles.values()))
                role.terminating = not role.terminating
            case 3 if targets.delegations is not None and targets.delegations.roles:
                role = self.random.choice(list(targets.delegations.roles.values()))
                role.keyids[:] = self.random.choice([[], ["unknown"], role.keyids])
            case _:
                self.repository.delegate("deltas", by="targets")
                self.repository.delegate("targets2", by="deltas")
                self.repository.delegate("deltas", by="targets2")  # a cycle

    def lose_state(self) -> None:
        """The same stored file is lost or torn on both devices."""
        role = self.random.choice(["root", "timestamp", "snapshot", "targets", "deltas"])
        torn = self.random.random() < 0.5
        stored = self.theirs.folder / f"{role}.json"
        if role in self.ours.store.files:
            del self.ours.store.files[role]
            if torn:
                self.ours.store.files[role] = b"{torn"
        if stored.exists():
            stored.unlink()  # root.json is a link into the history, which stays
            if torn and role != "root":
                stored.write_bytes(b"{torn")

    def lose_history(self) -> None:
        version = self.random.randrange(2, 5)
        self.ours.store.files.pop(f"{version}/root", None)
        (self.theirs.folder / "root_history" / f"{version}.root.json").unlink(missing_ok=True)

    def pass_time(self) -> None:
        self.now += timedelta(days=self.random.choice([1, 2, 10, 29, 31]))

    # --- stages

    def change(self) -> None:
        """Some edits, then usually an honest publication, then usually no more than one lie."""
        edits, chance = EDITS[:], self.random
        for _ in range(chance.choice([0, 1, 1, 2, 3])):
            self._do(chance.choice(edits))
        if chance.random() < 0.15:
            self._do(Scenario.heal_expiries)
        roles = [role for role in self.repository.signed if role not in FIXED]
        published = chance.choice(
            [[], ["timestamp"], ["snapshot", "timestamp"], [*roles, "snapshot", "timestamp"]]
        )
        if chance.random() < 0.3:
            published = ["root", *published]
        bump = chance.random() < 0.9
        self.done.append(f"publish {published} bump={bump}")
        self.repository.publish(*published, bump=bump)
        if chance.random() < 0.45:
            self._do(chance.choice(LIES))

    def _do(self, change: "Callable[[Scenario], None]") -> None:
        self.done.append(change.__name__)
        change(self)

    def explanation(self, ours: dict[str, object], theirs: dict[str, object]) -> str | None:
        """The rule of EXPLANATIONS that makes our verdict differ here; None: there is none."""
        refusal = str(ours.get("refused", ""))
        if "twin" in self.flags and "distinct keys" in refusal:
            return "twin"
        if "strict JSON" in self.flags and (
            "same key twice" in refusal or "not whole" in refusal or "too long" in refusal
        ):
            return "strict JSON"
        if "received bytes" in self.flags and "distinct keys" in refusal:
            return "received bytes"
        forgot = any("revoked" in line for line in self.ours.said)
        if forgot:
            # Either way: we accept the lower versions, or have to fetch again what the server
            # has damaged since.
            return "5.3.11"
        return "stored snapshot" if self.theirs.keeps_a_snapshot_of_another_hash() else None


FIXED = ("root", "timestamp", "snapshot")
EDITS: list[Callable[[Scenario], None]] = [
    Scenario.change_version,
    Scenario.change_version,
    Scenario.change_expiry,
    Scenario.change_expiry,
    Scenario.change_threshold,
    Scenario.add_key,
    Scenario.add_twin_key,
    Scenario.rotate,
    Scenario.rotate_root,
    Scenario.drop_signer,
    Scenario.sign_with_stranger,
    Scenario.restore_signers,
    Scenario.change_content,
    Scenario.change_content,
    Scenario.change_delegation,
    Scenario.change_delegation,
    Scenario.pass_time,
    Scenario.pass_time,
]
LIES: list[Callable[[Scenario], None]] = [
    Scenario.damage_file,
    Scenario.damage_file,
    Scenario.edit_signatures,
    Scenario.serve_old_file,
    Scenario.damage_target,
    Scenario.lose_state,
    Scenario.lose_history,
]


def publish_lie(scenario: Scenario) -> None:
    """Sign the lie of timestamp or snapshot."""
    scenario.change_meta()
    scenario.repository.publish(*scenario.random.choice([["timestamp"], ["snapshot"]]))


LIES.append(publish_lie)


def forget_role(scenario: Scenario) -> None:
    scenario.forget_role_in_snapshot()
    scenario.repository.publish("snapshot", "timestamp")


LIES.append(forget_role)


def play(seed: int, folder: Path, tally: Counter[str]) -> str | None:
    """Play one repository; the disagreement that no rule explains, or None."""
    scenario = Scenario(seed, folder)
    with asyncio.Runner() as runner:
        for stage in range(STAGES):
            if stage:
                scenario.change()
            ours = runner.run(scenario.ours.run(scenario.now))
            theirs = scenario.theirs.run(scenario.now)
            tally["refused" if "refused" in theirs else "accepted"] += 1
            if ("refused" in ours and "refused" in theirs) or ours == theirs:
                continue
            reason = scenario.explanation(ours, theirs)
            if reason is None:
                return (
                    f"seed {seed}, stage {stage}, after {scenario.done}:\n"
                    f"  ours   {ours}\n  theirs {theirs}"
                )
            tally[reason] += 1
            return None  # their states differ from here on
    return None


@pytest.mark.parametrize("part", range(PARTS))
def test_verdicts_equal_ngclients(tmp_path: Path, part: int) -> None:
    tally: Counter[str] = Counter()
    unexplained = []
    for seed in range(SEED + part, SEED + COUNT, PARTS):
        folder = tmp_path / str(seed)
        disagreement = play(seed, folder, tally)
        shutil.rmtree(folder)
        if disagreement is not None:
            unexplained.append(disagreement)
    print(dict(tally))
    assert not unexplained, f"{len(unexplained)} disagreements, the first:\n" + unexplained[0]
    verdicts = tally["accepted"] + tally["refused"]
    explained = sum(tally[reason] for reason in EXPLANATIONS)
    assert tally["accepted"] > 0.3 * verdicts, "too few sound repositories to mean anything"
    assert tally["refused"] > 0.1 * verdicts, "too few unsound repositories to mean anything"
    assert explained < 0.05 * verdicts, "explanations that explain too much"
