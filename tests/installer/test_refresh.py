"""The walk from fetcher to store: what is asked for, what is stored, what survives loss and cuts."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipstream.delta import durable
from slipstream.delta.errors import (
    DeviceFault,
    DigestMismatch,
    Expired,
    FormatError,
    Rejected,
    RolledBack,
    SignatureError,
    SlipstreamError,
    Unavailable,
)
from slipstream.delta.limits import ROOT_ROTATIONS_MAX
from slipstream.delta.trust import TargetFile, TrustedSet
from slipstream.installer import metadata_store
from slipstream.installer.metadata_store import MetadataStore
from slipstream.installer.refresh import Layout, fetch_target, find_target, refresh
from tests.conformance.repository import NOW, MemoryFetcher, Repository


class Device:
    """A device with its first root and its store, and a repository to talk to."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.first_root = repository.files["metadata/1.root.json"]
        self.store = MetadataStore(folder)
        self.fetcher = MemoryFetcher(repository)
        self.said: list[str] = []

    @property
    def repository(self) -> Repository:
        return self.fetcher.repository

    def refresh(self, now: datetime = NOW) -> TrustedSet:
        self.fetcher.asked.clear()
        self.said.clear()
        return asyncio.run(
            refresh(self.fetcher, self.store, self.first_root, now, say=self.said.append)
        )

    def find(self, trusted: TrustedSet, path: str) -> TargetFile | None:
        return asyncio.run(find_target(self.fetcher, self.store, trusted, path))

    def fetch(self, path: str, size_max: int = 1000, now: datetime = NOW) -> bytes:
        trusted = self.refresh(now)
        return asyncio.run(fetch_target(self.fetcher, self.store, trusted, path, size_max=size_max))

    @property
    def asked(self) -> list[str]:
        return [path.removeprefix("metadata/") for path in self.fetcher.asked]

    def stored(self) -> dict[str, int]:
        """Versions of what is stored, by file name."""
        return {
            path.name.removesuffix(".json"): json.loads(path.read_bytes())["signed"]["version"]
            for path in sorted(self.store.folder.glob("*.json"))
        }


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "metadata", Repository())


def test_the_first_refresh_asks_in_tufs_order_and_stores_the_bytes(device: Device) -> None:
    device.refresh()
    assert device.asked == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert device.stored() == {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}
    for role in ("snapshot", "targets"):
        assert device.store.read(role) == device.repository.files[f"metadata/1.{role}.json"]


def test_a_refresh_without_news_costs_two_requests(device: Device) -> None:
    device.refresh()
    device.refresh()
    assert device.asked == ["2.root.json", "timestamp.json"]
    assert device.said == []


def test_without_consistent_snapshots_names_have_no_version(tmp_path: Path) -> None:
    repository = Repository(consistent=False)
    repository.add_target("targets", "x", b"content")
    repository.publish("targets", "snapshot", "timestamp")
    device = Device(tmp_path, repository)
    assert device.fetch("x") == b"content"
    assert device.asked[1:] == ["timestamp.json", "snapshot.json", "targets.json", "targets/x"]


def test_folders_are_parameters(tmp_path: Path, device: Device) -> None:
    files = device.repository.files
    device.repository.files = {
        path.replace("metadata/", "tuf/meta/"): raw for path, raw in files.items()
    }
    # The memory repository unquotes what is not below metadata/; these names need no quoting.
    asyncio.run(
        refresh(
            device.fetcher,
            device.store,
            device.first_root,
            NOW,
            layout=Layout(metadata="tuf/meta/", targets="tuf/files/"),
        )
    )
    assert device.fetcher.asked[0] == "tuf/meta/2.root.json"


@pytest.mark.parametrize(
    ("role", "stored"),
    [
        ("root", {"root": 1}),
        ("timestamp", {"root": 2}),
        ("snapshot", {"root": 2, "timestamp": 2}),
        ("targets", {"root": 2, "timestamp": 2, "snapshot": 2}),
    ],
)
def test_what_came_before_a_refused_role_is_kept_and_nothing_after(
    device: Device, role: str, stored: dict[str, int]
) -> None:
    device.repository.signers[role] = []
    device.repository.publish("root", "targets", "snapshot", "timestamp")
    with pytest.raises(SignatureError):
        device.refresh()
    assert device.stored() == stored


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_what_has_expired_is_not_stored(device: Device, role: str) -> None:
    device.refresh()
    device.repository.signed[role].expires = NOW - timedelta(days=1)
    device.repository.publish("targets", "snapshot", "timestamp")
    with pytest.raises(Expired):
        device.refresh()
    assert device.stored()[role] == 1


def test_an_expired_root_is_stored_and_ends_the_refresh(device: Device) -> None:
    device.refresh()
    device.repository.root.expires = NOW - timedelta(days=1)
    device.repository.publish("root")
    with pytest.raises(Expired):
        device.refresh()
    assert device.stored()["root"] == 2
    assert device.asked == ["2.root.json", "3.root.json"]


def test_expired_stored_metadata_serves_to_load_newer(device: Device) -> None:
    device.repository.timestamp.expires = NOW + timedelta(days=7)
    device.repository.snapshot.expires = NOW + timedelta(days=7)
    device.repository.publish("snapshot", "timestamp")
    device.refresh()
    device.repository.timestamp.expires = NOW + timedelta(days=21)
    device.repository.snapshot.expires = NOW + timedelta(days=21)
    device.repository.publish("snapshot", "timestamp")
    device.refresh(NOW + timedelta(days=18))
    assert device.stored()["snapshot"] == 3


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_missing_metadata_is_unavailable(device: Device, name: str) -> None:
    device.refresh()
    device.repository.publish("targets", "snapshot", "timestamp")
    del device.repository.files[f"metadata/{name}"]
    with pytest.raises(Unavailable):
        device.refresh()
    assert device.asked[-1] == name


# --- rollback and recovery


@pytest.mark.parametrize("hashes", [False, True])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_rollback_of_each_role_is_refused(tmp_path: Path, role: str, hashes: bool) -> None:
    device = Device(tmp_path, Repository(hashes=hashes))
    repository = device.repository
    for _ in range(2):
        repository.publish("targets", "snapshot", "timestamp")
    device.refresh()
    repository.signed[role].version = 1
    repository.publish(role, bump=False)
    after = {"timestamp": [], "snapshot": ["timestamp"], "targets": ["snapshot", "timestamp"]}
    repository.publish(*after[role])
    with pytest.raises(RolledBack):
        device.refresh()
    assert device.stored()[role] == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_fast_forward_is_mended_by_rotating_the_online_keys(device: Device, role: str) -> None:
    """The thief drove a version up; spec 5.3.11 lets the publisher come back down."""
    repository = device.repository
    repository.signed[role].version = 2**31 - 2
    repository.publish("targets", "snapshot", "timestamp")
    device.refresh()
    repository.rotate("snapshot" if role == "targets" else role)
    repository.publish("root")
    repository.signed[role].version = 1
    repository.publish("targets", "snapshot", "timestamp")
    device.refresh()
    assert device.stored()[role] == 2
    assert any("revoked" in line for line in device.said)


@pytest.mark.parametrize("cut", range(1, 9))
def test_recovery_from_fast_forward_survives_a_cut_at_each_write(
    device: Device, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    repository = device.repository
    repository.timestamp.version = 1000
    repository.publish("snapshot", "timestamp")
    device.refresh()
    repository.rotate("snapshot")
    repository.publish("root")
    repository.timestamp.version = 1
    repository.publish("snapshot", "timestamp")
    with PowerCut(monkeypatch, cut):
        device.refresh()
    device.refresh()
    assert device.stored()["timestamp"] == 2


# --- lost and edited state


@pytest.mark.parametrize("damage", ["lost", "empty", "junk", "cut", "other role"])
@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_damaged_state_is_fetched_again_and_said(device: Device, role: str, damage: str) -> None:
    device.repository.publish("root", "targets", "snapshot", "timestamp")
    device.refresh()
    path = device.store.folder / f"{role}.json"
    raw = path.read_bytes()
    match damage:
        case "lost":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "junk":
            path.write_bytes(b"\x00" * 5000)
        case "cut":
            path.write_bytes(raw[: len(raw) // 2])
        case "other role":
            path.write_bytes(device.repository.files["metadata/1.targets.json"])
    device.refresh()
    assert device.stored() == {"root": 2, "snapshot": 2, "targets": 2, "timestamp": 2}
    if role in {"timestamp", "snapshot"}:
        assert any(f"stored {role}" in line for line in device.said)


def test_a_damaged_history_of_roots_is_walked_again_over_the_network(device: Device) -> None:
    repository = device.repository
    repository.publish("root")
    repository.publish("root")
    device.refresh()
    history = device.store.folder / "root_history"
    (history / "2.root.json").write_bytes(b"junk")
    (history / "3.root.json").unlink()
    device.refresh()
    assert device.asked[:3] == ["2.root.json", "3.root.json", "4.root.json"]
    assert any("stored root 2" in line for line in device.said)
    device.refresh()
    assert device.asked[:1] == ["4.root.json"]


def test_whoever_edits_the_state_folder_gains_nothing(device: Device, tmp_path: Path) -> None:
    """Attacker A4: his own repository's metadata, complete and sound, in the state folder."""
    evil = Device(tmp_path / "evil", Repository())
    evil.repository.rotate("root")  # not the device's keys
    for role in ("timestamp", "snapshot", "targets"):
        evil.repository.rotate(role)
    evil.repository.publish("root", "targets", "snapshot", "timestamp")
    evil.first_root = evil.repository.files["metadata/2.root.json"]
    evil.refresh()
    device.store = evil.store
    evil.store.write_root(2, evil.first_root)
    trusted = device.refresh()
    assert trusted.root_bytes == device.first_root
    assert device.stored() == {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}
    assert any("unsound" in line for line in device.said)
    device.fetcher.repository = evil.repository
    with pytest.raises(Rejected):
        device.refresh()


def test_an_unsound_first_root_asks_nobody(device: Device) -> None:
    device.first_root = device.first_root.replace(b'"root"', b'"toor"')
    with pytest.raises(Rejected, match=r"the first root: .*not sound"):
        device.refresh()
    assert device.fetcher.asked == []


def make_foreign_first() -> bytes:
    """The first root of a repository that has nothing to do with the device's."""
    repository = Repository()
    for role in ("root", "timestamp", "snapshot", "targets"):
        repository.rotate(role)
    repository.publish("root", bump=False)
    return repository.files["metadata/1.root.json"]


@pytest.mark.parametrize("rotations", [0, 2])
def test_a_foreign_root_is_refused_before_anything_stored_is_touched(
    device: Device, rotations: int
) -> None:
    for _ in range(rotations):
        device.repository.publish("root")
    device.refresh()
    stored = {path: path.read_bytes() for path in device.store.folder.rglob("*.json")}
    good, device.first_root = device.first_root, make_foreign_first()

    with pytest.raises(Rejected, match=r"the first root: .*another repository.*server\.root") as it:
        device.refresh()

    assert "trusted so far" in str(it.value)
    assert "spool" in str(it.value)
    assert device.fetcher.asked == []
    assert {path: path.read_bytes() for path in device.store.folder.rglob("*.json")} == stored
    device.first_root = good
    device.refresh()
    assert not any("revoked" in line for line in device.said)


def test_a_foreign_root_on_a_fresh_device_can_be_corrected(device: Device) -> None:
    good, device.first_root = device.first_root, make_foreign_first()
    with pytest.raises(SignatureError, match=r"Is the first root the root of another repository\?"):
        device.refresh()
    device.first_root = good
    device.refresh()
    device.refresh()


# --- root chain


def test_a_device_that_slept_for_years_walks_every_root(device: Device) -> None:
    for _ in range(20):
        device.repository.rotate_root()
    device.refresh()
    assert device.stored()["root"] == 21
    assert len(list((device.store.folder / "root_history").iterdir())) == 21


def test_one_refresh_walks_a_bounded_number_of_roots(device: Device) -> None:
    for _ in range(ROOT_ROTATIONS_MAX + 2):
        device.repository.publish("root")
    device.refresh()
    assert device.stored()["root"] == ROOT_ROTATIONS_MAX + 1
    assert any("stopped" in line for line in device.said)


def test_a_server_that_fails_is_not_the_end_of_the_chain(device: Device) -> None:
    device.fetcher.down = True
    with pytest.raises(Unavailable):
        device.refresh()
    assert device.asked == ["2.root.json"]


# --- time


def test_without_a_clock_rollback_is_still_refused_and_freeze_is_hidden(device: Device) -> None:
    """1970: expiry cannot be seen (documented), but versions hold."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    repository = device.repository
    old = repository.files["metadata/timestamp.json"]
    repository.publish("targets", "snapshot", "timestamp")
    device.refresh(epoch)
    repository.files["metadata/timestamp.json"] = old
    with pytest.raises(RolledBack):
        device.refresh(epoch)


def test_one_reference_time_holds_for_the_whole_refresh(device: Device) -> None:
    """All roles expire at the same second: either all hold or none does."""
    for role in ("root", "timestamp", "snapshot", "targets"):
        device.repository.signed[role].expires = NOW
    device.repository.publish("root", "targets", "snapshot", "timestamp")
    device.refresh(NOW - timedelta(seconds=1))
    with pytest.raises(Expired):
        device.refresh(NOW)


# --- targets


def test_a_target_is_fetched_through_its_delegations(device: Device) -> None:
    repository = device.repository
    repository.delegate("deltas", paths=["deltas/*/*/*"], terminating=True)
    repository.add_target("deltas", "deltas/2/rootfs/0.delta", b"index")
    repository.publish("deltas", "targets", "snapshot", "timestamp")
    assert device.fetch("deltas/2/rootfs/0.delta") == b"index"
    assert device.asked[-2] == "1.deltas.json"
    assert device.stored()["deltas"] == 1
    assert device.fetch("deltas/2/rootfs/0.delta") == b"index"
    assert "1.deltas.json" not in device.asked


@pytest.mark.parametrize("role", ["?", "#", "/x", "../x", "..", ".", "%2F", "a b", "ä", "r" * 300])
def test_names_of_roles_stay_inside_the_folder(tmp_path: Path, role: str) -> None:
    device = Device(tmp_path / "state" / "metadata", Repository())
    device.repository.delegate(role)
    device.repository.add_target(role, "x", b"content")
    device.repository.publish(role, "targets", "snapshot", "timestamp")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert device.fetch("x") == b"content"
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    written.remove(device.store.folder / "root_history" / "1.root.json")
    assert {path.parent for path in written} == {device.store.folder}
    assert len(written) == 5
    device.fetch("x")
    assert not any(name.startswith("1.") for name in device.asked)


@pytest.mark.parametrize(
    ("name", "lie"),
    [("content", b"Content"), ("shorter", b"conten"), ("longer", b"content!"), ("empty", b"")],
)
def test_a_substituted_target_is_refused(device: Device, name: str, lie: bytes) -> None:
    repository = device.repository
    repository.add_target("targets", "x", b"content")
    repository.publish("targets", "snapshot", "timestamp")
    for path in list(repository.files):
        if path.startswith("targets/"):
            repository.files[path] = lie
    with pytest.raises(Rejected):
        device.fetch("x")


def test_a_target_that_nobody_signed_or_that_is_too_large_is_refused(device: Device) -> None:
    device.repository.add_target("targets", "x", b"content")
    device.repository.publish("targets", "snapshot", "timestamp")
    with pytest.raises(Rejected, match="no signed metadata"):
        device.fetch("y")
    with pytest.raises(FormatError, match="too large"):
        device.fetch("x", size_max=6)
    assert device.fetch("x", size_max=7) == b"content"


def test_an_expired_delegated_role_is_not_used_even_if_stored(device: Device) -> None:
    repository = device.repository
    repository.delegate("deltas")
    repository.targets("deltas").expires = NOW + timedelta(days=7)
    repository.add_target("deltas", "x", b"content")
    repository.publish("deltas", "targets", "snapshot", "timestamp")
    assert device.fetch("x") == b"content"
    with pytest.raises(Expired):
        device.fetch("x", now=NOW + timedelta(days=8))
    repository.targets("deltas").expires = NOW + timedelta(days=21)
    repository.publish("deltas", "snapshot", "timestamp")
    assert device.fetch("x", now=NOW + timedelta(days=8)) == b"content"


# --- endless data, and cuts


def test_endless_metadata_is_capped(device: Device) -> None:
    device.repository.files["metadata/timestamp.json"] += b" " * 20_000
    with pytest.raises(SlipstreamError):
        device.refresh()


class PowerCut:
    """Ends the block at the n-th durable operation, before or after it takes effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
        self.left = cut
        self.happened = False
        for name in ("write_durably", "remove_durably"):
            operation = getattr(durable, name)
            monkeypatch.setattr(metadata_store, name, self._wrap(operation))

    def _wrap(self, operation: Callable[..., None]) -> Callable[..., None]:
        def cutting(*args: object, **options: object) -> None:
            if not self.happened:
                self.left -= 1
                if self.left == 0:
                    raise PowerLost
                operation(*args, **options)
                self.left -= 1
                if self.left == 0:
                    raise PowerLost
            else:
                operation(*args, **options)

        return cutting

    def __enter__(self) -> "PowerCut":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        self.happened = True
        return isinstance(error, PowerLost)


class PowerLost(BaseException):
    """Not an Exception: nothing of ours may catch it."""


@pytest.mark.parametrize("cut", range(1, 18))
def test_power_may_go_between_any_two_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """The next refresh completes, and the old timestamp is refused once the new one was stored."""
    device = Device(tmp_path, Repository(hashes=True))
    repository = device.repository
    old_files = dict(repository.files)
    device.refresh()
    floor = device.stored()["timestamp"]
    repository.rotate_root()
    repository.publish("root", "targets", "snapshot", "timestamp")
    with PowerCut(monkeypatch, cut):
        device.refresh()
    stored = device.stored()
    assert stored["timestamp"] >= floor
    if stored["timestamp"] > floor:
        device.repository.files = {**repository.files, **old_files}
        with pytest.raises(RolledBack):
            device.refresh()
        device.repository.files = {**old_files, **repository.files}
        repository.publish("timestamp")
    device.refresh()
    assert device.stored()["targets"] == 2


def test_a_full_disk_is_a_device_fault(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metadata_store, "write_durably", full)
    with pytest.raises(DeviceFault, match="No space"):
        device.refresh()
    monkeypatch.undo()
    device.refresh()
    assert device.stored()["targets"] == 1


def test_digest_mismatch_of_new_targets_keeps_the_old(tmp_path: Path) -> None:
    device = Device(tmp_path, Repository(hashes=True))
    device.repository.publish("targets", "snapshot", "timestamp")
    device.refresh()
    device.repository.publish("targets")
    meta = device.repository.snapshot.meta["targets.json"]
    assert meta.hashes is not None
    meta.hashes["sha256"] = "46" * 32
    device.repository.publish("snapshot", "timestamp")
    with pytest.raises(DigestMismatch):
        device.refresh()
    assert device.stored()["targets"] == 2
    assert device.stored()["snapshot"] == 3
