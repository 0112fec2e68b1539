"""What is in force, and refreshing it, with the reference client looking on."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from slipstream.delta.errors import Busy, FormatError, Rejected, SignatureError, UsageError
from slipstream.server.keys import KeyRing, no_passphrase
from slipstream.server.repo import Repository, locked
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
    # All five files of a stranger fit each other; only the keys at hand tell that they are not ours.
    ours, theirs = make_repo(tmp_path / "ours"), make_repo(tmp_path / "theirs")
    shutil.rmtree(ours.metadata)
    shutil.copytree(theirs.metadata, ours.metadata)
    with pytest.raises(UsageError, match="not enough keys"):
        renew(ours)


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
