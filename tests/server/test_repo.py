"""How a repository begins, and that one process at a time changes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.delta.errors import Busy, FormatError, UsageError
from slipstream.server.keys import no_passphrase
from slipstream.server.policy import (
    DEFAULT_ROLES,
    RolePolicy,
    dump_policy,
    make_roles,
    parse_policy,
)
from slipstream.server.repo import init_repo, locked, open_repo
from slipstream.server.sign import read_in_force
from tests.server.faulty_disk import FaultyDisk, PowerCut
from tests.server.reference_client import ReferenceClient
from tests.server.repositories import NOW, SALT, make_repo

WORDS = "correct horse battery"


def test_a_new_repository_satisfies_the_reference_client(tmp_path: Path):
    repo = make_repo(tmp_path)
    assert ReferenceClient(repo.public, tmp_path / "client").releases() == {}


def test_defaults(tmp_path: Path):
    repo = init_repo(tmp_path / "repo", "gateway", passphrases=lambda _role: WORDS, now=NOW)
    assert repo.keys.stat().st_mode & 0o777 == 0o700
    assert len(list(repo.keys.glob("*.key"))) == sum(role.keys for role in DEFAULT_ROLES.values())
    assert {path.stat().st_mode & 0o777 for path in repo.keys.glob("*.key")} == {0o600}
    assert all(b"ENCRYPTED" in path.read_bytes() for path in repo.keys.glob("*.key"))
    assert {path.stat().st_mode & 0o777 for path in repo.metadata.iterdir()} == {0o644}
    assert len(repo.policy.salt) == 32
    other = init_repo(tmp_path / "other", "gateway", passphrases=no_passphrase, now=NOW)
    assert other.policy.salt != repo.policy.salt
    ReferenceClient(repo.public, tmp_path / "client").refresh()


def test_no_private_key_is_served(tmp_path: Path):
    repo = make_repo(tmp_path)
    served = [path for path in repo.public.rglob("*") if path.is_file()]
    assert served
    assert not any(b"PRIVATE" in path.read_bytes() for path in served)


def test_root_says_what_was_asked_for(tmp_path: Path):
    repo = make_repo(tmp_path, root=RolePolicy(3, 2, 100), timestamp=RolePolicy(2, 1, 3))
    current = read_in_force(repo)
    root = current.root.signed
    assert root.consistent_snapshot is True
    assert (len(root.roles["root"].keyids), root.roles["root"].threshold) == (3, 2)
    assert (len(root.roles["timestamp"].keyids), root.roles["timestamp"].threshold) == (2, 1)
    assert len(root.keys) == 7, "every role has keys of its own"
    deltas = current.targets.signed.delegations.roles["deltas"]
    assert (deltas.terminating, deltas.paths) == (True, ["deltas/*/*/*"])
    assert set(deltas.keyids).isdisjoint(root.keys)
    days = {role: (at - NOW).days for role, at in current.expiries().items()}
    assert days == {"root": 99, "targets": 364, "deltas": 29, "snapshot": 29, "timestamp": 2}


def test_it_is_opened_as_it_was_made(tmp_path: Path):
    repo = make_repo(tmp_path)
    assert open_repo(repo.path).policy == repo.policy
    assert repo.policy.salt == SALT
    assert json.loads((repo.path / "repo.json").read_bytes())["product"] == "gateway"


@pytest.mark.parametrize("raw", ["", "{}", '{"format": "slipstream-repo-1"}', "\0"])
def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path, raw: str):
    repo = make_repo(tmp_path)
    (repo.path / "repo.json").write_text(raw)
    with pytest.raises(UsageError, match=r"repo/repo\.json: not a repository's repo\.json"):
        open_repo(repo.path)


@pytest.mark.parametrize("there", ["repository", "file", "folder"])
def test_what_is_there_is_never_replaced(tmp_path: Path, there: str):
    path = tmp_path / "repo"
    if there == "repository":
        make_repo(tmp_path)
    elif there == "file":
        path.write_text("mine")
    else:
        (path / "mine").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="something already"):
        make_repo(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_there(tmp_path: Path):
    (tmp_path / "repo").mkdir()
    assert make_repo(tmp_path).path == tmp_path / "repo"


def test_killed_anywhere_there_is_no_repository_and_the_next_try_makes_one(tmp_path: Path):
    good = 0
    while True:
        try:
            make_repo(tmp_path, disk=FaultyDisk(good))
            break
        except PowerCut:
            with pytest.raises(UsageError, match="not a repository"):
                open_repo(tmp_path / "repo")
            good += 1
    assert good > 20, "every key, folder and file is an operation"
    ReferenceClient(tmp_path / "repo" / "public", tmp_path / "client").refresh()
    assert [path.name for path in tmp_path.iterdir() if path.name != "client"] == ["repo"]


@pytest.mark.parametrize(
    ("product", "salt"), [("Gateway", SALT), ("", SALT), ("a/b", SALT), ("gateway", b"short")]
)
def test_init_refuses_what_cannot_be(tmp_path: Path, product: str, salt: bytes):
    with pytest.raises(UsageError):
        init_repo(tmp_path / "repo", product, passphrases=no_passphrase, now=NOW, salt=salt)
    assert list(tmp_path.iterdir()) == []


def test_open_says_what_is_wrong(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match=r"not a repository.*slipstream repo init"):
            open_repo(path)


def test_two_publishers_at_once(tmp_path: Path):
    repo = make_repo(tmp_path)
    with (
        locked(repo),
        pytest.raises(Busy, match="another process"),
        locked(open_repo(repo.path)),
    ):
        pass
    with locked(repo):
        pass


def test_a_killed_publisher_leaves_no_lock(tmp_path: Path):
    repo = make_repo(tmp_path)
    code = (
        "import os, sys, pathlib\n"
        "from slipstream.server.repo import locked, open_repo\n"
        "with locked(open_repo(pathlib.Path(sys.argv[1]))):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, repo.path], check=False).returncode == -9
    with locked(repo):
        pass


def test_policy_round_trip(tmp_path: Path):
    policy = make_repo(tmp_path).policy
    assert parse_policy(dump_policy(policy)) == policy


@pytest.mark.parametrize(
    "change",
    [
        ("format", "slipstream-repo-2"),
        ("product", "A"),
        ("salt", "00"),
        ("salt", "zz" * 32),
        ("roles", {}),
        ("roles", {"root": {"keys": 1, "threshold": 1, "days": 1}}),
        ("later", 1),
    ],
)
def test_a_policy_that_cannot_be(tmp_path: Path, change):
    document = json.loads(dump_policy(make_repo(tmp_path).policy))
    document[change[0]] = change[1]
    with pytest.raises(FormatError):
        parse_policy(json.dumps(document).encode())


def test_roles_from_options():
    roles = make_roles({"root": 5}, {"root": 3, "targets": 4}, {"timestamp": 1})
    assert roles["root"] == RolePolicy(5, 3, 730)
    assert roles["targets"] == RolePolicy(4, 4, 365), "a threshold brings the keys it needs"
    assert roles["timestamp"] == RolePolicy(1, 1, 1)
    assert make_roles({}, {}, {}) == DEFAULT_ROLES


@pytest.mark.parametrize(
    ("keys", "thresholds", "days"),
    [
        ({"mirror": 1}, {}, {}),
        ({"root": 0}, {}, {}),
        ({"root": 17}, {}, {}),
        ({"root": 1}, {"root": 2}, {}),
        ({}, {"root": 0}, {}),
        ({}, {}, {"timestamp": 0}),
        ({}, {}, {"timestamp": 3651}),
    ],
)
def test_roles_that_cannot_be(keys, thresholds, days):
    with pytest.raises(UsageError):
        make_roles(keys, thresholds, days)
