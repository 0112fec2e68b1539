"""Rotating keys, with an old client and a new one looking on at every write."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import RepositoryError

from slipstream.delta.errors import UsageError
from slipstream.server.keys import no_passphrase
from slipstream.server.policy import RolePolicy
from slipstream.server.repo import Repository, init_repo, open_repo
from slipstream.server.rotate import Rotated, rotate_key
from slipstream.server.sign import read_in_force, refresh
from tests.server.faulty_disk import FaultyDisk, PowerCut
from tests.server.reference_client import ReferenceClient
from tests.server.repositories import NOW, make_repo, public_files

ROLES = ("root", "targets", "snapshot", "timestamp", "deltas")


def renew(repo: Repository, days: int = 0, **more: object) -> None:
    refresh(repo, passphrases=no_passphrase, now=NOW + timedelta(days=days), **more)


def rotate(repo: Repository, role: str, **more: object) -> Rotated:
    return rotate_key(repo, role, passphrases=no_passphrase, now=NOW, **more)


def keyids(repo: Repository, role: str) -> list[str]:
    current = read_in_force(repo)
    delegator = current.targets if role == "deltas" else current.root
    return list(delegator.signed.get_delegated_role(role).keyids)


@pytest.mark.parametrize("role", ROLES)
def test_rotation(tmp_path: Path, role):
    repo = make_repo(tmp_path)
    client = ReferenceClient(repo.public, tmp_path / "client")
    client.refresh()
    (old,) = keyids(repo, role)
    done = rotate(repo, role)
    assert (done.role, done.old) == (role, old)
    assert keyids(repo, role) == [done.new]
    assert done.new != old
    client.refresh()
    ReferenceClient(repo.public, tmp_path / "new client").refresh()
    # The old key can go; everything works with the new one.
    for file in repo.keys.glob(f"{role}-1.*"):
        file.unlink()
    renew(repo, 200, offline=True)
    rotate(repo, role)
    client.refresh()
    assert not (repo.path / "rotation.json").exists()


@pytest.mark.parametrize("role", ROLES)
def test_rotation_cut_at_every_operation(tmp_path: Path, role):
    """An old client and a new one are content at every cut, and the same new key takes over."""
    repo = make_repo(tmp_path)
    before = ReferenceClient(repo.public, tmp_path / "client")
    before.refresh()
    (old,) = keyids(repo, role)
    good = 0
    while True:
        folder = tmp_path / str(good)
        shutil.copytree(repo.path, folder / "repo")
        shutil.copytree(before.state, folder / "old client")
        copy = open_repo(folder / "repo")
        client = ReferenceClient(copy.public, folder / "old client")
        cut = False
        try:
            rotate(replace(copy, disk=FaultyDisk(good)), role)
        except PowerCut:
            cut = True
            client.refresh()
            ReferenceClient(copy.public, folder / "new client").refresh()
            renew(copy)  # and between the parts of a rotation, refreshing goes on
            client.refresh()
            done = rotate(copy, role)
            assert keyids(copy, role) == [done.new]
            assert done.old == old
        client.refresh()
        if not cut:
            break
        good += 1
    assert good >= 4


def test_an_unfinished_rotation_comes_first(tmp_path: Path):
    repo = make_repo(tmp_path)
    with pytest.raises(PowerCut):
        rotate(replace(repo, disk=FaultyDisk(4)), "timestamp")
    with pytest.raises(UsageError, match="rotation of timestamp is unfinished"):
        rotate(repo, "snapshot")
    new = rotate(repo, "timestamp").new
    assert keyids(repo, "timestamp") == [new]
    rotate(repo, "snapshot")


@pytest.mark.parametrize("role", ["root", "targets"])
def test_rotation_of_a_threshold_role(tmp_path: Path, role):
    repo = make_repo(tmp_path, **{role: RolePolicy(3, 2, 700)})
    client = ReferenceClient(repo.public, tmp_path / "client")
    client.refresh()
    first, second, third = keyids(repo, role)
    done = rotate(repo, role, old=second[:12])
    assert keyids(repo, role) == [first, third, done.new]
    client.refresh()
    ReferenceClient(repo.public, tmp_path / "new client").refresh()


def test_a_lost_root_key_is_rotated_out_by_the_others(tmp_path: Path):
    repo = make_repo(tmp_path, root=RolePolicy(3, 2, 700))
    (repo.keys / "root-1.key").unlink()
    lost = keyids(repo, "root")[0]
    assert rotate(repo, "root", old=lost).old == lost
    ReferenceClient(repo.public, tmp_path / "client").refresh()
    (repo.keys / "root-2.key").unlink()
    (repo.keys / "root-3.key").unlink()
    before = public_files(repo)
    with pytest.raises(UsageError, match="expected 2 of 3, got 1"):
        rotate(repo, "root")
    assert public_files(repo) == before


def test_a_lost_timestamp_key_is_rotated_out(tmp_path: Path):
    repo = make_repo(tmp_path)
    (repo.keys / "timestamp-1.key").unlink()
    rotate(repo, "timestamp")
    ReferenceClient(repo.public, tmp_path / "client").refresh()


@pytest.mark.parametrize(
    ("role", "old", "message"),
    [
        ("mirror", None, "no role 'mirror'"),
        ("root", "zz", "not one key of root"),
        ("root", "", "not one key of root"),
    ],
)
def test_rotation_refuses(tmp_path: Path, role, old, message):
    repo = make_repo(tmp_path, root=RolePolicy(2, 1, 700))
    with pytest.raises(UsageError, match=message):
        rotate(repo, role, old=old)
    assert not (repo.path / "rotation.json").exists()


def test_a_restored_backup_is_accepted_after_rotating(tmp_path: Path):
    """docs/publishing.md, Back up: TUF's recovery from versions that ran ahead."""
    repo = make_repo(tmp_path)
    client = ReferenceClient(repo.public, tmp_path / "client")
    shutil.copytree(repo.path, tmp_path / "backup")
    for days in (1, 20, 36):
        renew(repo, days)
    client.refresh()
    shutil.rmtree(repo.path)
    (tmp_path / "backup").rename(repo.path)
    with pytest.raises(RepositoryError):
        client.refresh()
    rotate(repo, "snapshot")
    rotate(repo, "timestamp")
    assert client.refresh()._trusted_set.timestamp.version < 4


def test_a_new_key_is_encrypted_as_the_first_ones_were(tmp_path: Path):
    def words(role: str) -> str:
        return f"a passphrase for {role}"

    repo = init_repo(tmp_path / "repo", "gateway", passphrases=words, now=NOW)
    rotate_key(repo, "timestamp", passphrases=words, now=NOW)
    assert b"ENCRYPTED" in (repo.keys / "timestamp-2.key").read_bytes()
    plain = make_repo(tmp_path / "plain")
    rotate_key(plain, "timestamp", passphrases=words, now=NOW)
    assert b"ENCRYPTED" not in (plain.keys / "timestamp-2.key").read_bytes()
