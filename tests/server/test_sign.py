"""What is in force, and refreshing it, with the reference client looking on."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from slipstream.delta.errors import Busy, FormatError, Rejected, SignatureError, UsageError
from slipstream.server.disk import Disk
from slipstream.server.keys import KeyRing, make_key, no_passphrase
from slipstream.server.metadata import dump_metadata, meta_file, sign, target_file
from slipstream.server.repo import Repository, locked
from slipstream.server.rotate import rotate_key
from slipstream.server.sign import (
    Refreshed,
    Signing,
    expiries,
    put_in_force,
    read_in_force,
    refresh,
)
from tests.server.faulty_disk import FaultyDisk, PowerCut
from tests.server.reference_client import ReferenceClient
from tests.server.repositories import NOW, make_repo, public_files

DAY = timedelta(days=1)


def renew(repo: Repository, days: float = 0, **more: object) -> Refreshed:
    return refresh(repo, passphrases=no_passphrase, now=NOW + days * DAY, **more)


@pytest.mark.parametrize(
    ("days", "offline", "signed", "due"),
    [
        (0, False, "timestamp", ""),
        (3, False, "timestamp", ""),
        (14, False, "timestamp", ""),
        (16, False, "deltas snapshot timestamp", ""),
        (100, True, "deltas snapshot timestamp", ""),
        (200, False, "deltas snapshot timestamp", ""),
        (200, True, "targets deltas snapshot timestamp", ""),
        (300, False, "deltas snapshot timestamp", "targets"),
        (400, True, "root targets deltas snapshot timestamp", ""),
        (800, False, "deltas snapshot timestamp", "root targets"),
    ],
)
def test_refresh_signs_what_runs_out(tmp_path: Path, days, offline, signed, due):
    repo = make_repo(tmp_path)
    done = renew(repo, days, offline=offline)
    assert " ".join(done.signed) == signed
    assert " ".join(expiry.role for expiry in done.due) == due
    current = read_in_force(repo)
    for role, at in current.expiries().items():
        if role in done.signed:
            expected = NOW.replace(microsecond=0) + days * DAY
            assert at == expected + timedelta(days=repo.policy.roles[role].days)
    ReferenceClient(repo.public, tmp_path / "client").refresh() if days < 300 else None


def test_refresh_with_the_online_keys_alone(tmp_path: Path):
    repo = make_repo(tmp_path)
    for name in ("root-1.key", "targets-1.key"):
        (repo.keys / name).unlink()
    assert renew(repo, 20).signed == ("deltas", "snapshot", "timestamp")
    before = public_files(repo)
    with pytest.raises(UsageError, match="not enough keys to sign targets"):
        renew(repo, 200, offline=True)
    assert public_files(repo) == before


def test_clients_follow_refreshes(tmp_path: Path):
    repo = make_repo(tmp_path)
    client = ReferenceClient(repo.public, tmp_path / "client")
    for days in (0, 0, 16, 32, 200, 370):
        renew(repo, days, offline=True)
        trusted = client.refresh()._trusted_set
        assert trusted.timestamp.version == read_in_force(repo).timestamp.signed.version


def test_expiries_speak(tmp_path: Path):
    repo = make_repo(tmp_path)
    soonest, *_, last = expiries(repo, NOW + 8 * DAY)
    assert (soonest.role, soonest.expired, last.role, last.expired) == (
        "timestamp",
        True,
        "root",
        False,
    )
    assert "timestamp metadata expired on" in str(soonest)
    assert "slipstream repo refresh" in str(soonest)
    assert "root metadata expires in 721 days" in str(last)
    assert "--offline" in str(last)


def test_a_written_file_is_never_written_again(tmp_path: Path):
    repo = make_repo(tmp_path)
    before = {}
    for good in range(4):
        with pytest.raises(PowerCut):
            renew(replace(repo, disk=FaultyDisk(good % 3)), 20)
        now = {name: raw for name, raw in public_files(repo).items() if "timestamp" not in name}
        assert before.items() <= now.items()
        before = now
    renew(repo, 20)
    now = public_files(repo)
    assert before.items() <= now.items()
    assert len(now) > len(before)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("1.root.json", Rejected),
        ("1.targets.json", FormatError),
        ("1.deltas.json", FormatError),
        ("1.snapshot.json", FormatError),
        ("timestamp.json", SignatureError),
    ],
)
def test_what_was_tampered_with_is_not_signed_again(tmp_path: Path, name, error):
    repo = make_repo(tmp_path)
    document = json.loads((repo.metadata / name).read_bytes())
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    good = (repo.metadata / name).read_bytes()
    (repo.metadata / name).write_text(json.dumps(document))
    with pytest.raises(error):
        renew(repo)
    (repo.metadata / name).write_bytes(good[:-1])
    with pytest.raises(FormatError):
        renew(repo)
    (repo.metadata / name).unlink()
    with pytest.raises(FormatError, match="missing"):
        renew(repo)


def test_metadata_of_another_repository_is_refused(tmp_path: Path):
    # All five files of a stranger fit each other.
    ours, theirs = make_repo(tmp_path / "ours"), make_repo(tmp_path / "theirs")
    shutil.rmtree(ours.metadata)
    shutil.copytree(theirs.metadata, ours.metadata)
    with pytest.raises(FormatError, match="not the one this repository trusts"):
        renew(ours)
    (ours.path / "root.json").unlink()
    with pytest.raises(FormatError, match="trusted root is missing"):
        renew(ours)


def test_a_root_made_in_the_web_folder_does_not_get_a_release_signed(tmp_path: Path):
    # A stranger's root that lists our keys beside his: all his files fit, and ours could sign.
    repo = make_repo(tmp_path)
    roles = ("root", "targets", "snapshot", "timestamp")
    his = {role: make_key(Disk(), tmp_path, role, no_passphrase) for role in roles}
    current = read_in_force(repo)
    root, targets = current.root.signed, current.targets.signed
    snapshot, timestamp = current.snapshot.signed, current.timestamp.signed
    root.revoke_key(root.roles["root"].keyids[0], "root")
    for role, signer in his.items():
        root.add_key(signer.public_key, role)
    path = "releases/his/manifest.json"
    targets.targets[path] = target_file(path, b"his", {})
    files = {"1.targets.json": dump_metadata(sign(targets, [his["targets"]]))}
    snapshot.meta["targets.json"] = meta_file(1, files["1.targets.json"])
    files["1.snapshot.json"] = dump_metadata(sign(snapshot, [his["snapshot"]]))
    timestamp.snapshot_meta = meta_file(1, files["1.snapshot.json"])
    files["timestamp.json"] = dump_metadata(sign(timestamp, [his["timestamp"]]))
    files["1.root.json"] = dump_metadata(sign(root, [his["root"]]))
    for name, raw in files.items():
        (repo.metadata / name).write_bytes(raw)
    with pytest.raises(FormatError, match="not the one this repository trusts"):
        renew(repo, 200, offline=True)


def test_an_old_root_with_a_revoked_key_is_not_taken_back(tmp_path: Path):
    repo = make_repo(tmp_path)
    before = public_files(repo)
    rotate_key(repo, "targets", passphrases=no_passphrase, now=NOW)
    assert (repo.path / "root.json").read_bytes() == (repo.metadata / "3.root.json").read_bytes()
    shutil.rmtree(repo.metadata)
    for name, raw in before.items():
        (repo.public / name).parent.mkdir(parents=True, exist_ok=True)
        (repo.public / name).write_bytes(raw)
    with pytest.raises(FormatError, match="missing"):
        renew(repo)


@pytest.mark.parametrize("role", ["targets", "deltas"])
def test_a_snapshot_that_leaves_out_a_role_is_refused(tmp_path: Path, role: str):
    # As a stolen online key could sign it.
    repo = make_repo(tmp_path)
    current = read_in_force(repo)
    del current.snapshot.signed.meta[f"{role}.json"]
    put_in_force(Signing(repo, KeyRing([repo.keys], no_passphrase), NOW), current, snapshot=True)
    with pytest.raises(FormatError, match=f"does not name {role}"):
        renew(repo)


def test_all_is_signed_before_anything_is_written(tmp_path: Path):
    repo = make_repo(tmp_path)
    (repo.keys / "timestamp-1.key").unlink()
    before = public_files(repo)
    with pytest.raises(UsageError, match="not enough keys to sign timestamp"):
        renew(repo, 20)
    assert public_files(repo) == before


def test_metadata_too_large_for_clients_is_not_written(tmp_path: Path):
    repo = make_repo(tmp_path)
    current = read_in_force(repo)
    deltas = current.deltas.signed
    deltas.unrecognized_fields["padding"] = "x" * 5_000_000
    before = public_files(repo)
    signing = Signing(repo, KeyRing([repo.keys], no_passphrase), NOW)
    with pytest.raises(FormatError, match="too large for clients"):
        put_in_force(signing, current, deltas=deltas)
    assert public_files(repo) == before


def test_refresh_waits_for_nobody(tmp_path: Path):
    repo = make_repo(tmp_path)
    with locked(repo), pytest.raises(Busy):
        renew(repo)
