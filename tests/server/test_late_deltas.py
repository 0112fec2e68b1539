"""Deltas between releases that are published: what comes out, what is refused, who may work beside."""

import random
import threading
from dataclasses import replace

import pytest

from slipstream.delta.errors import Busy, UsageError
from slipstream.delta.layout import DELTAS_ROLE
from slipstream.server.keys import no_passphrase
from slipstream.server.late_deltas import LateDelta, add_delta
from slipstream.server.repo import locked
from slipstream.server.sign import read_in_force
from tests.server.reference_client import ReferenceClient
from tests.server.repositories import NOW, make_repo, public_files
from tests.server.test_publish import IMAGES, put, request


@pytest.fixture
def repo(tmp_path):
    paths = {}
    for version, data in IMAGES.items():
        paths[version] = tmp_path / f"rootfs-{version}.img"
        paths[version].write_bytes(data)
    made = make_repo(tmp_path)
    for version in ("1.0", "2.0"):
        put(made, request(version, paths))
    return made


def wanted(repo, **more):
    known = LateDelta("1.0", "2.0", repo.path / "server" / "deltas" / "x", jobs=1, wait_s=0.0)
    return replace(known, **more)


def add(repo, **more):
    return add_delta(repo, wanted(repo, **more), passphrases=no_passphrase, now=NOW)


def test_a_delta_is_added_and_is_the_one_that_publishing_makes(repo, tmp_path):
    (made,) = add(repo)
    assert made.published
    other = make_repo(tmp_path / "other")
    paths = {version: tmp_path / f"rootfs-{version}.img" for version in IMAGES}
    put(other, request("1.0", paths))
    published = put(other, request("2.0", paths, delta_from=["1.0"]))
    assert published.deltas[0].index.raw == made.index.raw
    client = ReferenceClient(repo.public, tmp_path / "client")
    manifest = published.manifest
    size = client.delta_size(manifest, "rootfs", made.entry.source_root)
    assert size == made.index.payload_size
    assert add(repo) == ()  # nothing is left to do


def test_no_offline_key_is_needed(repo):
    for role in ("root", "targets"):
        for key in repo.keys.glob(f"{role}*"):
            key.unlink()
    assert add(repo)[0].published


def test_a_missing_online_key_is_told_before_anything_is_built(repo):
    for key in repo.keys.glob(f"{DELTAS_ROLE}*"):
        key.unlink()
    before = public_files(repo)
    with pytest.raises(UsageError, match="deltas"):
        add(repo)
    assert public_files(repo) == before
    assert not wanted(repo).folder.exists()


def test_images_that_are_gone_are_made_again(repo, tmp_path):
    for version in ("1.0", "2.0"):
        (tmp_path / f"rootfs-{version}.img").unlink()
    assert add(repo)[0].published


def test_unknown_releases_are_named(repo):
    with pytest.raises(UsageError, match=r"9\.9"):
        add(repo, source="9.9")
    with pytest.raises(UsageError, match=r"9\.9"):
        add(repo, target="9.9")


def test_a_delta_that_saves_nothing_is_not_published(repo, tmp_path):
    path = tmp_path / "rootfs-4.0.img"
    path.write_bytes(random.Random(2).randbytes(100_000))
    put(repo, request("4.0", {"4.0": path}))
    before = public_files(repo)
    (made,) = add(repo, target="4.0")
    assert (made.published, made.why) == (False, "the full payload is smaller")
    assert public_files(repo) == before


def test_another_publisher_is_waited_for(repo):
    with locked(repo), pytest.raises(Busy):
        add(repo)
    # Built already; now the lock is free after a while.
    held = threading.Event()

    def hold():
        with locked(repo):
            held.set()
            threading.Event().wait(1.0)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    made = add(repo, wait_s=30.0)
    other.join()
    assert made[0].published


def test_a_release_published_meanwhile_stays(repo, tmp_path):
    """The build holds no lock, so what is in force is read again before it is signed."""
    paths = {version: tmp_path / f"rootfs-{version}.img" for version in IMAGES}
    done = []

    def publish_once(*_):
        if not done:
            done.append(put(repo, request("3.0", paths)))

    add_delta(repo, wanted(repo), passphrases=no_passphrase, now=NOW, on_progress=publish_once)
    assert done
    client = ReferenceClient(repo.public, tmp_path / "client")
    assert set(client.releases()) == {"1.0", "2.0", "3.0"}
    (entry,) = read_in_force(repo).deltas.signed.targets
    assert "2.0" in entry
