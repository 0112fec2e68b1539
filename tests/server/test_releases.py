"""Image files, records, and what is published."""

import subprocess
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import Rejected, UsageError
from slipstream.delta.layout import manifest_path, payload_blob
from slipstream.delta.manifest import Place
from slipstream.delta.tree import tree_of
from slipstream.server.build import build_payload
from slipstream.server.keys import no_passphrase
from slipstream.server.publish import publish
from slipstream.server.releases import (
    find_source,
    list_releases,
    published_index,
    read_index,
    read_manifest,
    read_record,
    scan_image,
    take_up_record,
    write_record,
)
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest
from slipstream.server.sign import read_in_force
from tests.server.repositories import NOW, SALT, make_repo

DATA = bytes(range(256)) * 100 + b"tail"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.img"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def repo(tmp_path: Path, image: Path) -> Repository:
    """A repository with releases 1.0, 3.0 and 2.0, published in this order, counters 1, 3, 2."""
    made = make_repo(tmp_path)
    for version, counter in (("1.0", 1), ("3.0", 3), ("2.0", 2)):
        asked = ReleaseRequest(
            version, {"rootfs": (Place.PARTITION, image)}, counter=counter, jobs=1
        )
        publish(made, asked, passphrases=no_passphrase, now=NOW)
    return made


def test_scan(image: Path):
    told = []
    scanned = scan_image(image, SALT, lambda *step: told.append(step))
    assert scanned.digest == Digest.of(DATA)
    assert scanned.tree == tree_of([DATA], SALT)
    assert told == [(len(DATA), len(DATA))]
    scanned.check_unchanged()


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_bytes(DATA[:-1]),
        lambda path: path.write_bytes(b"x" * len(DATA)),
        lambda path: path.rename(path.with_name("old")) and path.write_bytes(DATA),
    ],
)
def test_a_touched_image_is_noticed(image: Path, touch):
    scanned = scan_image(image, SALT)
    touch(image)
    with pytest.raises(UsageError, match="changed while it was being published"):
        scanned.check_unchanged()


def test_scan_refuses(tmp_path: Path):
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="an empty image has no tree"):
        scan_image(tmp_path / "empty", SALT)
    with pytest.raises(UsageError, match="No such file"):
        scan_image(tmp_path / "nothing", SALT)
    with pytest.raises(UsageError, match="Is a directory"):
        scan_image(tmp_path, SALT)


def test_releases_are_listed_by_counter(repo: Repository):
    listed = list_releases(read_in_force(repo).targets.signed)
    assert [(version, entry.counter) for version, entry in listed.items()] == [
        ("1.0", 1),
        ("2.0", 2),
        ("3.0", 3),
    ]


def test_a_manifest_is_checked_before_it_is_believed(repo: Repository):
    targets = read_in_force(repo).targets.signed
    assert read_manifest(repo, targets, "2.0").counter == 2
    target = targets.targets[manifest_path("2.0")]
    repo.target(target.path, target.hashes["sha256"]).write_bytes(b"{}")
    with pytest.raises(Rejected, match="not what was signed"):
        read_manifest(repo, targets, "2.0")


def test_a_source_is_where_it_was_or_made_again(repo: Repository, image: Path):
    entry = read_manifest(repo, read_in_force(repo).targets.signed, "1.0").image("rootfs")
    assert find_source(repo, "1.0", entry) == image
    image.unlink()
    repo.work.mkdir()
    made = find_source(repo, "1.0", entry)
    assert made.parent == repo.work
    assert made.read_bytes() == DATA


def test_a_damaged_full_payload_makes_no_source(repo: Repository, image: Path):
    entry = read_manifest(repo, read_in_force(repo).targets.signed, "1.0").image("rootfs")
    image.unlink()
    repo.work.mkdir()
    blob = repo.blob(payload_blob(entry.full.index))
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(raw)
    with pytest.raises(Rejected):
        find_source(repo, "1.0", entry)


def test_another_full_payload_under_its_name_makes_no_source(repo: Repository, image: Path):
    # A sound payload, put there by whoever can write to the web folder.
    entry = read_manifest(repo, read_in_force(repo).targets.signed, "1.0").image("rootfs")
    image.write_bytes(DATA[::-1])
    blob = repo.blob(payload_blob(entry.full.index))
    build_payload(None, image, blob, jobs=1, memory_bytes=96 << 20)
    repo.work.mkdir()
    with pytest.raises(Rejected, match="does not make the image that was signed"):
        find_source(repo, "1.0", entry)
    with pytest.raises(Rejected, match="index of a payload is not what was signed"):
        published_index(repo, entry.full.index)


def test_a_device_without_an_end_is_no_image():
    with pytest.raises(UsageError, match="neither a regular file nor a block device"):
        scan_image(Path("/dev/zero"), SALT)


def test_an_index_is_read_from_the_head_of_its_payload(repo: Repository):
    entry = read_manifest(repo, read_in_force(repo).targets.signed, "1.0").image("rootfs")
    index = read_index(repo.blob(payload_blob(entry.full.index)))
    assert index.digest == entry.full.index
    assert index.target_digest == Digest.of(DATA)


def test_a_record_is_taken_up_for_the_same_images_and_settings_only(tmp_path: Path, image: Path):
    repo = make_repo(tmp_path)
    scanned = {"rootfs": scan_image(image, SALT)}
    first = take_up_record(repo, "1.0", scanned, {"profile": "small"}, NOW)
    first.issued = 7
    first.payloads["a"] = "b"
    write_record(repo, first)
    assert read_record(repo, "1.0") == first
    again = take_up_record(repo, "1.0", scanned, {"profile": "small"}, NOW)
    assert (again.issued, again.payloads) == (7, {"a": "b"})
    other = take_up_record(repo, "1.0", scanned, {"profile": "fast"}, NOW)
    assert (other.issued, other.payloads) == (int(NOW.timestamp()), {})
    image.write_bytes(DATA + b"more")
    changed = {"rootfs": scan_image(image, SALT)}
    assert take_up_record(repo, "1.0", changed, {"profile": "small"}, NOW).payloads == {}


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[]", b'{"release": 1}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, raw: bytes):
    repo = make_repo(tmp_path)
    assert read_record(repo, "1.0") is None
    repo.release("1.0").mkdir(parents=True)
    (repo.release("1.0") / "release.json").write_bytes(raw)
    assert read_record(repo, "1.0") is None


def test_a_block_device_is_an_image(tmp_path: Path, image: Path):
    image.write_bytes(DATA.ljust(1 << 20, b"\0"))
    command = ["losetup", "--find", "--show", "--read-only", image]
    try:
        found = subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no loop device here")
    device = Path(found.stdout.strip())
    try:
        assert scan_image(device, SALT).tree == scan_image(image, SALT).tree
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
