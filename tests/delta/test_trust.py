"""TUF's rules in TUF's order: what becomes trusted, what is refused, what counts as a floor."""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from slipstream.delta.errors import (
    DigestMismatch,
    Expired,
    FormatError,
    Rejected,
    RolledBack,
    SignatureError,
)
from slipstream.delta.limits import DELEGATIONS_MAX, TARGETS_BYTES_MAX
from slipstream.delta.trust import RoleWanted, TargetFile, TrustedSet
from tests.conformance.repository import KEYS, NOW, Repository


def at_root(repository: Repository, now: datetime = NOW, versions: int = 1) -> TrustedSet:
    """A set that has walked the repository's roots and closed the chain."""
    trusted = TrustedSet(repository.files["metadata/1.root.json"], now)
    for version in range(2, versions + 1):
        trusted.update_root(repository.files[f"metadata/{version}.root.json"])
    trusted.close_root()
    return trusted


def current(repository: Repository, role: str) -> bytes:
    version = "" if role == "timestamp" else f"{repository.published[role]}."
    return repository.files[f"metadata/{version}{role}.json"]


def complete(repository: Repository, trusted: TrustedSet | None = None) -> TrustedSet:
    trusted = trusted or at_root(repository)
    trusted.update_timestamp(current(repository, "timestamp"))
    trusted.update_snapshot(current(repository, "snapshot"))
    trusted.update_targets(current(repository, "targets"))
    return trusted


def test_a_sound_repository_becomes_trusted() -> None:
    repository = Repository(hashes=True)
    repository.add_target("targets", "a/b c", b"content")
    repository.publish("targets", "snapshot", "timestamp")
    trusted = complete(repository)
    target = trusted.find_target("a/b c")
    assert isinstance(target, TargetFile)
    assert target.length == 7
    assert target.file_path == f"a/{target.digest}.b%20c"
    target.check(b"content")
    for wrong in (b"Content", b"content ", b""):
        with pytest.raises(DigestMismatch):
            target.check(wrong)
    assert trusted.find_target("a/b") is None
    assert list(trusted.targets) == ["a/b c"]


def test_steps_out_of_order_are_mistakes_of_the_caller() -> None:
    repository = Repository()
    root, timestamp, snapshot, targets = (
        current(repository, role) for role in ("root", "timestamp", "snapshot", "targets")
    )
    fresh = TrustedSet(root, NOW)
    steps: list[Callable[[], object]] = [
        lambda: fresh.update_timestamp(timestamp),
        lambda: fresh.remember_timestamp(timestamp),
        lambda: fresh.update_snapshot(snapshot),
        lambda: fresh.remember_snapshot(snapshot),
        lambda: fresh.update_targets(targets),
        lambda: fresh.timestamp,
        lambda: fresh.snapshot,
    ]
    for step in steps:
        with pytest.raises(RuntimeError):
            step()
    done = complete(repository)
    with pytest.raises(RuntimeError):
        done.update_root(root)
    with pytest.raises(RuntimeError):
        done.update_timestamp(timestamp)
    with pytest.raises(RuntimeError):
        done.remember_timestamp(timestamp)
    with pytest.raises(RuntimeError):
        done.update_snapshot(snapshot)
    with pytest.raises(RuntimeError):
        done.update_delegated(targets, "deltas", "nobody")
    with pytest.raises(ValueError):
        TrustedSet(root, NOW.replace(tzinfo=None))


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_unsigned_metadata_of_each_role_is_refused(role: str) -> None:
    repository = Repository()
    repository.signers[role] = []
    repository.publish("root", "targets", "snapshot", "timestamp")
    with pytest.raises(SignatureError):
        complete(repository, at_root(repository, versions=2))


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_metadata_signed_by_the_key_of_another_role_is_refused(role: str) -> None:
    repository = Repository()
    other = "targets" if role == "root" else "root"
    repository.signers[role] = repository.signers[other]
    repository.publish("root", "targets", "snapshot", "timestamp")
    with pytest.raises(SignatureError):
        complete(repository, at_root(repository, versions=2))


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_threshold_needs_that_many_keys(role: str) -> None:
    repository = Repository()
    repository.add_key(role)
    repository.root.roles[role].threshold = 2
    repository.publish("root", "targets", "snapshot", "timestamp")
    complete(repository, at_root(repository, versions=2))
    del repository.signers[role][1]
    repository.publish("root", "targets", "snapshot", "timestamp")
    with pytest.raises(SignatureError):
        complete(repository, at_root(repository, versions=3))


# --- expiry, to the second


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("seconds", [-1, 0, 1])
def test_metadata_expires_to_the_second(role: str, seconds: int) -> None:
    repository = Repository()
    repository.signed[role].expires = NOW + timedelta(seconds=seconds)
    repository.publish("root", "targets", "snapshot", "timestamp")
    if seconds > 0:
        complete(repository, at_root(repository, versions=2))
    else:
        with pytest.raises(Expired):
            complete(repository, at_root(repository, versions=2))


def test_an_expired_root_in_the_middle_of_the_chain_is_fine() -> None:
    repository = Repository()
    repository.root.expires = NOW - timedelta(days=400)
    repository.publish("root")
    repository.root.expires = NOW + timedelta(days=1)
    repository.publish("root")
    complete(repository, at_root(repository, versions=3))


@pytest.mark.parametrize("year", [1970, 2025, 2038, 2106])
def test_the_injected_time_alone_counts(year: int) -> None:
    repository = Repository()
    now = NOW.replace(year=year)
    if year <= NOW.year:
        complete(repository, at_root(repository, now))
    else:
        with pytest.raises(Expired):
            at_root(repository, now)


# --- root chain


def test_a_root_must_follow_its_predecessor_exactly() -> None:
    repository = Repository()
    repository.publish("root")
    repository.publish("root")
    roots = [repository.files[f"metadata/{version}.root.json"] for version in (1, 2, 3)]
    for wrong in (roots[0], roots[2]):
        with pytest.raises(RolledBack):
            TrustedSet(roots[0], NOW).update_root(wrong)


@pytest.mark.parametrize("missing", ["old", "new"])
def test_a_new_root_needs_the_old_and_the_new_keys(missing: str) -> None:
    repository = Repository()
    old = repository.signers["root"]
    repository.rotate("root")
    if missing == "new":
        repository.signers["root"] = old
    repository.publish("root")
    with pytest.raises(SignatureError):
        at_root(repository, versions=2)


def test_keys_rotate_through_a_doubly_signed_root() -> None:
    repository = Repository()
    for _ in range(3):
        repository.rotate_root()
    assert at_root(repository, versions=4).root.version == 4


# Keys, threshold and signatures of consecutive roots, by number of key; whether the last is taken.
ROTATIONS = {
    "replace the only key": ("1:1:1 2:1:21 2:1:2", True),
    "strangers' signatures do not matter": ("1:1:314 2:1:3214 2:1:324", True),
    "any three of five": ("01234:3:024 01234:3:041 01234:3:013", True),
    "replace one of five": ("01234:3:024 01345:3:041 01345:3:045", True),
    "replace five of five": ("01234:3:024 56789:3:024567 56789:3:567", True),
    "raise the threshold": ("123:1:1 123:2:12", True),
    "lower the threshold": ("123:2:12 123:1:12 123:1:1", True),
    "add a key and need it": ("1:1:1 12:2:12", True),
    "old key did not sign": ("1:1:1 2:1:234", False),
    "new key did not sign": ("1:1:1 2:1:134", False),
    "two of the new keys": ("01234:3:024 01345:3:024", False),
    "two of the old keys": ("01234:3:024 01345:3:045", False),
    "below the raised threshold": ("123:1:1 123:2:2", False),
    "below the old, higher threshold": ("123:2:12 123:1:1", False),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_root_keys_and_thresholds_change_only_by_both_quorums(name: str) -> None:
    versions, accepted = ROTATIONS[name]
    repository = Repository()
    role = repository.root.roles["root"]
    for keys, threshold, signers in (version.split(":") for version in versions.split()):
        role.keyids.clear()
        role.threshold = int(threshold)
        for number in keys:
            repository.root.add_key(KEYS[int(number)].public_key, "root")
        repository.signers["root"] = [KEYS[int(number)] for number in signers]
        repository.publish("root")
    last = repository.root.version
    trusted = TrustedSet(repository.files["metadata/2.root.json"], NOW)
    for version in range(3, last):
        trusted.update_root(repository.files[f"metadata/{version}.root.json"])
    raw = repository.files[f"metadata/{last}.root.json"]
    if accepted:
        trusted.update_root(raw)
        assert trusted.root_bytes == raw
    else:
        with pytest.raises(SignatureError):
            trusted.update_root(raw)
        assert trusted.root.version == last - 1


def test_a_root_that_did_not_sign_itself_is_no_root_of_trust() -> None:
    repository = Repository()
    repository.signers["root"] = repository.signers["targets"]
    repository.publish("root")
    with pytest.raises(SignatureError):
        TrustedSet(repository.files["metadata/2.root.json"], NOW)


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_revoking_an_online_key_is_noticed(role: str) -> None:
    repository = Repository()
    first = current(repository, "root")
    repository.add_key(role)
    repository.publish("root")
    assert not at_root(repository, versions=2).revokes_online_keys_since(first)
    repository.rotate(role)
    repository.publish("root")
    assert at_root(repository, versions=3).revokes_online_keys_since(first)
    assert not at_root(repository, versions=3).revokes_online_keys_since(b"torn")
    assert not at_root(repository, versions=3).revokes_online_keys_since(
        current(repository, "root")
    )


# --- rollback


def remembered(repository: Repository) -> TrustedSet:
    trusted = at_root(repository)
    trusted.remember_timestamp(current(repository, "timestamp"))
    return trusted


def test_a_timestamp_may_not_go_back_nor_its_snapshot() -> None:
    repository = Repository()
    old = current(repository, "timestamp")
    repository.publish("timestamp")
    with pytest.raises(RolledBack):
        remembered(repository).update_timestamp(old)
    repository.publish("snapshot", "timestamp")
    trusted = remembered(repository)
    repository.timestamp.snapshot_meta.version = 1
    repository.publish("timestamp")
    with pytest.raises(RolledBack):
        trusted.update_timestamp(current(repository, "timestamp"))


def test_the_same_timestamp_version_changes_nothing() -> None:
    repository = Repository()
    trusted = remembered(repository)
    repository.timestamp.snapshot_meta.version = 100
    repository.publish("timestamp", bump=False)
    assert trusted.update_timestamp(current(repository, "timestamp")) is False
    assert trusted.timestamp.snapshot_meta.version == 1


def test_an_expired_stored_timestamp_is_a_floor_but_not_current() -> None:
    repository = Repository(expires=NOW + timedelta(days=365))
    repository.timestamp.expires = NOW - timedelta(seconds=1)
    repository.publish("timestamp")
    stale = current(repository, "timestamp")
    with pytest.raises(Expired):
        remembered(repository).update_timestamp(stale)
    trusted = remembered(repository)
    repository.timestamp.expires = NOW + timedelta(days=1)
    repository.publish("timestamp")
    assert trusted.update_timestamp(current(repository, "timestamp")) is True


@pytest.mark.parametrize("change", ["lower", "gone"])
def test_a_role_in_the_snapshot_may_not_go_back_nor_vanish(change: str) -> None:
    repository = Repository()
    repository.delegate("deltas")
    repository.publish("deltas", "deltas", "targets", "snapshot", "timestamp")
    stored = current(repository, "snapshot")
    if change == "lower":
        repository.snapshot.meta["deltas.json"].version = 1
    else:
        del repository.snapshot.meta["deltas.json"]
    repository.publish("snapshot", "timestamp")
    trusted = at_root(repository)
    trusted.update_timestamp(current(repository, "timestamp"))
    assert trusted.remember_snapshot(stored) is False
    with pytest.raises(RolledBack):
        trusted.update_snapshot(current(repository, "snapshot"))


def test_a_stored_snapshot_is_current_only_if_the_timestamp_names_it() -> None:
    repository = Repository(hashes=True)
    repository.publish("targets", "snapshot", "timestamp")
    stored = current(repository, "snapshot")
    trusted = at_root(repository)
    trusted.update_timestamp(current(repository, "timestamp"))
    assert trusted.remember_snapshot(stored) is True
    repository.snapshot.expires += timedelta(seconds=1)
    repository.publish("snapshot", bump=False)  # the same version with other content
    repository.publish("timestamp")
    trusted = at_root(repository)
    trusted.update_timestamp(current(repository, "timestamp"))
    assert trusted.remember_snapshot(stored) is False


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_metadata_must_have_the_version_that_was_signed_for(role: str) -> None:
    repository = Repository()
    if role == "snapshot":
        repository.timestamp.snapshot_meta.version = 2
        repository.publish("timestamp")
    else:
        repository.snapshot.meta["targets.json"].version = 2
        repository.publish("snapshot", "timestamp")
    with pytest.raises(RolledBack):
        complete(repository)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
@pytest.mark.parametrize("what", ["length", "hash", "algorithm"])
def test_length_and_hashes_are_checked_before_parsing(role: str, what: str) -> None:
    repository = Repository(hashes=True)
    repository.publish("targets", "snapshot")
    meta = (
        repository.timestamp.snapshot_meta
        if role == "snapshot"
        else repository.snapshot.meta["targets.json"]
    )
    assert meta.hashes is not None
    assert meta.length is not None
    match what:
        case "length":
            meta.length += 1
        case "hash":
            meta.hashes["sha256"] = "00" * 32
        case "algorithm":
            meta.hashes["rot13"] = "00"
    if role == "targets":
        repository.hashes = False
        repository.publish("snapshot")
    repository.publish("timestamp")
    with pytest.raises(DigestMismatch):
        complete(repository)
    # Junk of any kind has the wrong hash before it is wrong JSON.
    trusted = at_root(repository)
    trusted.update_timestamp(current(repository, "timestamp"))
    if role == "snapshot":
        with pytest.raises(DigestMismatch):
            trusted.update_snapshot(b"[" * 1000)


def test_a_file_is_asked_for_with_its_signed_length_but_never_above_the_cap() -> None:
    repository = Repository(hashes=True)
    repository.publish("targets", "snapshot", "timestamp")
    trusted = complete(repository)
    assert trusted.snapshot_file.size_max == len(current(repository, "snapshot"))
    assert trusted.snapshot_file.path == "2.snapshot.json"
    trusted.snapshot.meta["targets.json"].length = 2**60
    assert trusted.role_file("targets").size_max == TARGETS_BYTES_MAX
    trusted.snapshot.meta["../x.json"] = trusted.snapshot.meta["targets.json"]
    assert trusted.role_file("../x").path == "2...%2Fx.json"
    with pytest.raises(FormatError):
        trusted.role_file("unknown")


# --- targets and delegations


def load_all(repository: Repository, trusted: TrustedSet, path: str) -> tuple[object, list[str]]:
    """Search as a client does; the result and the roles that were asked for, in order."""
    asked = []
    while isinstance(found := trusted.find_target(path), RoleWanted):
        asked.append(found.role)
        trusted.update_delegated(current(repository, found.role), found.role, found.delegator)
    return found, asked


def delegated(*edges: tuple[str, str], **options: object) -> Repository:
    repository = Repository()
    names = []
    for delegator, role in edges:
        repository.delegate(role, by=delegator, **options.get(role, {}))  # type: ignore[attr-defined]
        names.append(role)
    repository.publish(*dict.fromkeys(names), "targets", "snapshot", "timestamp")
    return repository


GRAPHS = {
    "single": ([("targets", "A"), ("targets", "B")], {}, "AB"),
    "preorder": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D")], {}, "ACDB"),
    "terminating": (
        [("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D"), ("C", "E")],
        {"C": {"terminating": True}},
        "ACE",
    ),
    "other paths": (
        [("targets", "A"), ("targets", "B"), ("A", "C")],
        {"A": {"paths": ["*.py"]}},
        "B",
    ),
    "cycle": ([("targets", "A"), ("A", "B"), ("B", "C"), ("C", "A")], {}, "ABC"),
    "two parents": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("B", "C")], {}, "ACB"),
    "hash prefix of another path": (
        [("targets", "A"), ("targets", "B")],
        {"A": {"prefixes": ["00"]}},
        "B",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_delegations_are_searched_in_preorder(name: str) -> None:
    edges, options, expected = GRAPHS[name]
    repository = delegated(*edges, **options)
    found, asked = load_all(repository, complete(repository), "missing")
    assert found is None
    assert "".join(asked) == expected


def test_the_first_role_that_lists_a_target_wins() -> None:
    repository = delegated(("targets", "A"), ("targets", "B"))
    repository.add_target("B", "x", b"from B")
    repository.add_target("A", "x", b"from A")
    repository.publish("A", "B", "snapshot", "timestamp")
    found, asked = load_all(repository, complete(repository), "x")
    assert isinstance(found, TargetFile)
    found.check(b"from A")
    assert asked == ["A"]


def test_a_role_may_not_speak_for_paths_it_was_not_given() -> None:
    repository = delegated(("targets", "deltas"), deltas={"paths": ["deltas/*/*/*"]})
    for path in ("releases/2/manifest.json", "deltas/2/x", "deltas/2/rootfs/0.delta"):
        repository.add_target("deltas", path, b"content")
    repository.publish("deltas", "snapshot", "timestamp")
    trusted = complete(repository)
    assert load_all(repository, trusted, "releases/2/manifest.json") == (None, [])
    assert load_all(repository, trusted, "deltas/2/x") == (None, [])
    found, asked = load_all(repository, trusted, "deltas/2/rootfs/0.delta")
    assert isinstance(found, TargetFile)
    assert asked == ["deltas"]


def test_a_shared_role_is_verified_against_each_delegator() -> None:
    repository = delegated(("targets", "A"), ("targets", "B"), ("A", "C"), ("B", "C"))
    stranger = repository.new_key()
    delegations = repository.targets("B").delegations
    assert delegations is not None
    assert delegations.roles is not None
    delegations.roles["C"].keyids[:] = []
    repository.targets("B").add_key(stranger.public_key, "C")
    repository.publish("B", "snapshot", "timestamp")
    trusted = complete(repository)
    trusted.update_delegated(current(repository, "A"), "A", "targets")
    trusted.update_delegated(current(repository, "B"), "B", "targets")
    trusted.update_delegated(current(repository, "C"), "C", "A")
    with pytest.raises(SignatureError):
        trusted.update_delegated(current(repository, "C"), "C", "B")


def test_a_role_loaded_for_one_delegator_is_asked_for_again_by_another() -> None:
    repository = delegated(
        ("targets", "A"), ("targets", "B"), ("A", "C"), ("B", "C"), A={"paths": ["a*"]}
    )
    trusted = complete(repository)
    assert load_all(repository, trusted, "ax")[1] == ["A", "C", "B"]
    assert trusted.find_target("b") == RoleWanted("C", "B")


def test_a_role_has_one_content_whoever_delegates_to_it() -> None:
    # Pinned by version only, B could bring his own C, and A's paths would be searched in it.
    repository = delegated(
        ("targets", "A"), ("targets", "B"), ("A", "C"), ("B", "C"), A={"paths": ["a*"]}
    )
    repository.add_target("C", "ax", b"of A")
    stranger = repository.new_key()
    repository.targets("B").add_key(stranger.public_key, "C")
    repository.publish("B", "C", "snapshot", "timestamp")
    trusted = complete(repository)
    found, _ = load_all(repository, trusted, "ax")
    trusted.update_delegated(current(repository, "B"), "B", "targets")
    assert trusted.find_target("b") == RoleWanted("C", "B")

    repository.signers["C"] = [stranger]
    repository.add_target("C", "ax", b"of B, as of A")
    repository.publish("C", bump=False)
    with pytest.raises(DigestMismatch, match="two files"):
        trusted.update_delegated(current(repository, "C"), "C", "B")
    assert trusted.find_target("ax") == found


def test_the_search_ends_after_a_number_of_roles() -> None:
    count = DELEGATIONS_MAX + 3
    repository = delegated(*(("targets", f"role{index}") for index in range(count)))
    found, asked = load_all(repository, complete(repository), "missing")
    assert found is None
    assert len(asked) == DELEGATIONS_MAX


def test_succinct_hash_bins_are_followed() -> None:
    repository = Repository()
    bins = repository.delegate_bins("bin", 3)
    for name in bins:
        repository.add_target(name, "some/target", name.encode())
    repository.publish(*bins, "targets", "snapshot", "timestamp")
    found, asked = load_all(repository, complete(repository), "some/target")
    assert len(asked) == 1
    assert isinstance(found, TargetFile)
    found.check(asked[0].encode())


@pytest.mark.parametrize("hashes", [{"sha512": "00" * 64}, {"sha256": "zz"}, {"sha256": "0" * 63}])
def test_a_target_without_a_sound_sha256_is_refused(hashes: dict[str, str]) -> None:
    repository = Repository()
    repository.add_target("targets", "x", b"content")
    repository.targets().targets["x"].hashes = hashes
    repository.publish("targets", "snapshot", "timestamp")
    with pytest.raises(Rejected):
        complete(repository).find_target("x")


@pytest.mark.parametrize(
    ("algorithm", "value", "sound"),
    [("sha512", None, True), ("sha512", "00", False), ("shake_256", "", False), ("x", "", False)],
)
def test_every_signed_hash_of_a_target_must_hold(
    algorithm: str, value: str | None, sound: bool
) -> None:
    repository = Repository()
    repository.add_target("targets", "x", b"content")
    value = value if value is not None else hashlib.new(algorithm, b"content").hexdigest()
    repository.targets().targets["x"].hashes[algorithm] = value
    repository.publish("targets", "snapshot", "timestamp")
    target = complete(repository).find_target("x")
    assert isinstance(target, TargetFile)
    if sound:
        target.check(b"content")
    else:
        with pytest.raises(DigestMismatch):
            target.check(b"content")
