"""Publishing: what comes out, what is refused, and a cut at every operation."""

import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.errors import Busy, Rejected, UsageError
from slipstream.delta.layout import payload_blob
from slipstream.delta.manifest import Place
from slipstream.server.keys import no_passphrase
from slipstream.server.patch import apply_payload
from slipstream.server.policy import RolePolicy
from slipstream.server.publish import Published, publish
from slipstream.server.repo import Repository, locked, open_repo
from slipstream.server.request import ReleaseRequest
from slipstream.server.sign import read_in_force
from tests.server.faulty_disk import FaultyDisk, PowerCut
from tests.server.reference_client import ReferenceClient
from tests.server.repositories import NOW, make_repo, public_files

NOISE = random.Random(1).randbytes(200_000)
# Two images that differ in a few bytes, with a zero run, not a multiple of the block size.
IMAGES = {
    "1.0": NOISE[:120_000] + bytes(60_000) + NOISE[120_000:],
    "2.0": NOISE[:50_000]
    + b"a small change"
    + NOISE[50_014:120_000]
    + bytes(60_000)
    + NOISE[120_000:],
    "3.0": NOISE[:90_000] + bytes(60_000) + NOISE[90_000:],
}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for version, data in IMAGES.items():
        paths[version] = tmp_path / f"rootfs-{version}.img"
        paths[version].write_bytes(data)
    return paths


def request(version: str, images: dict[str, Path], /, **more: object) -> ReleaseRequest:
    """A release of one image, built in this process."""
    rootfs = {"rootfs": (Place.PARTITION, images[version])}
    return replace(ReleaseRequest(version, rootfs, jobs=1), **more)


def put(repo: Repository, asked: ReleaseRequest, **more: object) -> Published:
    return publish(repo, asked, passphrases=no_passphrase, now=NOW, **more)


def test_two_releases_and_a_delta(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    client = ReferenceClient(repo.public, tmp_path / "client")
    one = put(repo, request("1.0", images))
    assert (one.already, one.deltas) == (False, ())
    assert client.releases() == {"1.0": 1}
    two = put(repo, request("2.0", images, delta_from=["1.0"]))
    assert client.releases() == {"1.0": 1, "2.0": 2}
    source_root = one.manifest.image("rootfs").tree.root
    size = client.delta_size(two.manifest, "rootfs", source_root)
    assert size is not None
    assert size < two.manifest.image("rootfs").full.payload_size // 100
    assert [(made.image, made.source, made.published) for made in two.deltas] == [
        ("rootfs", "1.0", True)
    ]


def test_what_is_published_makes_the_images(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    one = put(repo, request("1.0", images)).manifest.image("rootfs")
    two = put(repo, request("2.0", images, delta_from=["1.0"]))
    made = tmp_path / "made"
    apply_payload(None, repo.blob(payload_blob(one.full.index)), made)
    assert made.read_bytes() == IMAGES["1.0"]
    apply_payload(made, repo.blob(payload_blob(two.deltas[0].index.digest)), tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == IMAGES["2.0"]


def test_the_manifest_says_what_was_asked_for(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    (tmp_path / "linux").write_bytes(b"kernel")
    asked = request(
        "1.0",
        images,
        images={
            "rootfs": (Place.PARTITION, images["1.0"]),
            "linux": (Place.LINUX, tmp_path / "linux"),
        },
        channel="beta",
        hardware=["x86-64", "arm64"],
        counter=7,
        floor=3,
        notes="First.",
        title="Gateway one",
        options="roothash={rootfs.root} quiet",
    )
    manifest = put(repo, asked).manifest
    assert (manifest.product, manifest.release, manifest.channel) == ("gateway", "1.0", "beta")
    assert (manifest.counter, manifest.floor) == (7, 3)
    assert manifest.hardware == ("x86-64", "arm64")
    assert manifest.issued == int(NOW.timestamp())
    assert manifest.boot.title == "Gateway one"
    root = manifest.image("rootfs").tree.root
    assert manifest.boot.options == f"roothash={root} quiet"
    assert manifest.image("linux").place is Place.LINUX
    assert {image.tree.salt for image in manifest.images} == {repo.policy.salt}


def test_counter_floor_and_title_have_defaults(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    one = put(repo, request("1.0", images)).manifest
    assert (one.counter, one.floor, one.boot.title) == (1, 1, "gateway 1.0")
    two = put(repo, request("2.0", images, counter=5, floor=4)).manifest
    three = put(repo, request("3.0", images)).manifest
    assert (two.counter, two.floor) == (5, 4)
    assert (three.counter, three.floor) == (6, 4), "a floor is not lowered by forgetting it"


def test_twice_changes_nothing(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    put(repo, request("1.0", images))
    asked = request("2.0", images, delta_from=["1.0"])
    first = put(repo, asked)
    before = public_files(repo)
    again = put(repo, asked)
    assert public_files(repo) == before
    assert (again.already, again.deltas) == (True, ())
    assert again.manifest == first.manifest


def test_a_version_never_changes(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    asked = request("1.0", images)
    put(repo, asked)
    before = public_files(repo)
    for other, field in (
        (request("1.0", {"1.0": images["2.0"]}), "images"),
        (replace(asked, notes="other"), "notes"),
        (replace(asked, counter=2), "counter"),
        (replace(asked, floor=0), "floor"),
        (replace(asked, hardware=["arm64"]), "hardware"),
        (replace(asked, title="other"), "boot"),
        (replace(asked, channel="beta"), "channel"),
    ):
        with pytest.raises(UsageError, match=f"other contents; expected the same {field}"):
            put(repo, other)
    assert public_files(repo) == before


def test_deltas_can_be_added_without_the_offline_keys(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    put(repo, request("1.0", images))
    put(repo, request("2.0", images))
    for key in ("root-1.key", "targets-1.key"):
        (repo.keys / key).unlink()
    added = put(repo, request("2.0", images, delta_from=["1.0"]))
    assert (added.already, len(added.deltas)) == (True, 1)
    client = ReferenceClient(repo.public, tmp_path / "client")
    root = read_in_force(repo).targets.signed.targets["releases/1.0/rootfs.full"].custom["root"]
    assert client.delta_size(added.manifest, "rootfs", Digest.parse_hex(root))
    with pytest.raises(UsageError, match="not enough keys to sign targets metadata"):
        put(repo, request("3.0", images))


def test_offline_keys_are_found_in_another_folder(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    stick = tmp_path / "stick"
    stick.mkdir()
    for file in repo.keys.glob("targets-*"):
        file.rename(stick / file.name)
    with pytest.raises(UsageError, match="not enough keys"):
        put(repo, request("1.0", images))
    put(repo, request("1.0", images), keys=[stick])
    assert ReferenceClient(repo.public, tmp_path / "client").releases() == {"1.0": 1}


def test_keys_are_missed_before_anything_is_written(tmp_path: Path, images):
    repo = make_repo(tmp_path, targets=RolePolicy(2, 2, 365))
    (repo.keys / "targets-2.key").unlink()
    before = public_files(repo)
    with pytest.raises(UsageError, match="expected 2 of 2, got 1"):
        put(repo, request("1.0", images))
    assert public_files(repo) == before


def test_a_delta_that_gains_nothing_is_not_published(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    images["2.0"].write_bytes(random.Random(2).randbytes(100_000))
    one = put(repo, request("1.0", images)).manifest
    asked = request("2.0", images, delta_from=["1.0"])
    two = put(repo, asked)
    assert [(made.published, made.why) for made in two.deltas] == [
        (False, "the full payload is smaller")
    ]
    client = ReferenceClient(repo.public, tmp_path / "client")
    assert client.delta_size(two.manifest, "rootfs", one.image("rootfs").tree.root) is None
    before = public_files(repo)
    assert not put(repo, asked).deltas[0].published
    assert public_files(repo) == before


def test_an_image_that_did_not_change_needs_no_delta(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    put(repo, request("1.0", images))
    images["2.0"].write_bytes(IMAGES["1.0"])
    two = put(repo, request("2.0", images, delta_from=["1.0"]))
    assert [(made.published, made.why) for made in two.deltas] == [(False, "the image is the same")]
    assert ReferenceClient(repo.public, tmp_path / "client").releases() == {"1.0": 1, "2.0": 2}


@pytest.mark.parametrize("fate", ["gone", "changed", "shorter", "no record"])
def test_the_earlier_image_is_made_again_when_its_file_is(tmp_path: Path, images, fate):
    repo = make_repo(tmp_path)
    one = put(repo, request("1.0", images)).manifest
    if fate == "gone":
        images["1.0"].unlink()
    elif fate == "changed":
        images["1.0"].write_bytes(IMAGES["3.0"])
    elif fate == "shorter":
        images["1.0"].write_bytes(b"")
    else:
        (repo.release("1.0") / "release.json").unlink()
    two = put(repo, request("2.0", images, delta_from=["1.0"]))
    client = ReferenceClient(repo.public, tmp_path / "client")
    assert client.delta_size(two.manifest, "rootfs", one.image("rootfs").tree.root)
    assert not repo.work.exists()


@pytest.mark.parametrize(
    "words",
    [
        {"version": "../2"},
        {"version": ""},
        {"version": "2 0"},
        {"channel": "a/b"},
        {"images": {}},
        {"images": {"../x": (Place.PARTITION, Path("x"))}},
        {"images": {"rootfs": (Place.PARTITION, Path("nowhere"))}},
        {"images": {"rootfs": (Place.PARTITION, Path("/dev/null"))}},
        {"images": {"rootfs": (Place.PARTITION, Path("/"))}},
        {"delta_from": ["9.9"]},
        {"delta_from": ["2.0"]},
        {"counter": 0},
        {"counter": 1},
        {"floor": 3},
        {"hardware": ["X 1"]},
        {"title": "two\nlines"},
        {"notes": "\x1b"},
        {"options": f"roothash={'0' * 64}"},
        {"options": "roothash={usr.root}"},
        {"profile": "best"},
    ],
)
def test_what_cannot_be_published(tmp_path: Path, images, words):
    repo = make_repo(tmp_path)
    put(repo, request("1.0", images))
    before = read_in_force(repo).timestamp.signed
    with pytest.raises(UsageError):
        put(repo, request("2.0", images, **words))
    assert read_in_force(repo).timestamp.signed == before


def test_tampering_is_not_signed(tmp_path: Path, images):
    # Whoever can write to the web folder puts in a release of his own; the next publish would
    # sign it with the offline keys.
    repo = make_repo(tmp_path)
    put(repo, request("1.0", images))
    file = repo.metadata / "2.targets.json"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"counter":1', b'"counter":9'))
    with pytest.raises(Rejected, match="not what was signed"):
        put(repo, request("2.0", images))
    file.write_bytes(good)
    put(repo, request("2.0", images))


@pytest.mark.parametrize("step", ["hash rootfs", "full rootfs"])
def test_an_image_that_changes_meanwhile_is_not_published(tmp_path: Path, images, step):
    repo = make_repo(tmp_path)

    def change(what: str, *_: int) -> None:
        if what == step:
            images["1.0"].write_bytes(IMAGES["2.0"])

    with pytest.raises(UsageError, match="changed while it was being published"):
        put(repo, request("1.0", images), on_progress=change)
    assert ReferenceClient(repo.public, tmp_path / "client").releases() == {}


def test_progress_is_told(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    told = []
    put(repo, request("1.0", images), on_progress=lambda *step: told.append(step))
    asked = request("2.0", images, delta_from=["1.0"])
    put(repo, asked, on_progress=lambda *step: told.append(step))
    size = len(IMAGES["2.0"])
    for what in ("hash rootfs", "full rootfs", "delta rootfs from 1.0"):
        assert (what, size, size) in told


def test_files_can_be_read_by_a_web_server_whatever_the_umask(tmp_path: Path, images):
    before = os.umask(0o077)
    try:
        repo = make_repo(tmp_path)
        put(repo, request("1.0", images))
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in repo.public.rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in repo.public.rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o644}, {0o755})


def test_two_publishers_at_once(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    with locked(repo), pytest.raises(Busy):
        put(open_repo(repo.path), request("1.0", images))


@pytest.mark.parametrize("after", [False, True])
def test_cut_at_every_operation(tmp_path: Path, images, after):
    """At every cut a client sees the state before or the whole release; the next run completes."""
    repo = make_repo(tmp_path)
    one = put(repo, request("1.0", images)).manifest.image("rootfs")
    asked = request("2.0", images, delta_from=["1.0"])
    before = ReferenceClient(repo.public, tmp_path / "client")
    assert before.releases() == {"1.0": 1}
    seen = []
    while True:
        folder = tmp_path / str(len(seen))
        shutil.copytree(repo.path, folder / "repo")
        shutil.copytree(before.state, folder / "client")
        client = ReferenceClient(folder / "repo" / "public", folder / "client")
        faulty = open_repo(folder / "repo", disk=FaultyDisk(len(seen), after=after))
        try:
            put(faulty, asked)
            break
        except PowerCut:
            seen.append(client.releases())
        two = put(open_repo(folder / "repo"), asked)
        assert client.releases() == {"1.0": 1, "2.0": 2}
        assert client.delta_size(two.manifest, "rootfs", one.tree.root)
    # work/, chunks, 2 payloads, 2 records and their folder, 3 folders and 3 targets, 4 metadata.
    assert len(seen) >= 16
    # The timestamp's write is the last, and the only one that a client can tell.
    assert seen[-1] == ({"1.0": 1, "2.0": 2} if after else {"1.0": 1})
    assert all(releases == {"1.0": 1} for releases in seen[:-1])


def test_cut_again_and_again(tmp_path: Path, images):
    """Each run is cut one operation later than the one before; one client looks on."""
    repo = make_repo(tmp_path)
    put(repo, request("1.0", images))
    client = ReferenceClient(repo.public, tmp_path / "client")
    cuts = 0
    while True:
        try:
            put(replace(repo, disk=FaultyDisk(cuts)), request("2.0", images, delta_from=["1.0"]))
            break
        except PowerCut:
            assert client.releases() == {"1.0": 1}
            cuts += 1
    assert cuts >= 5
    assert client.releases() == {"1.0": 1, "2.0": 2}


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.server import test_publish as here
from slipstream.server.repo import open_repo

repo = open_repo(Path(sys.argv[2]), disk=here.FaultyDisk(int(sys.argv[4]), cut=lambda: os.kill(os.getpid(), 9)))
images = {"1.0": Path(sys.argv[3])}
here.put(repo, here.request("1.0", images))
"""


def test_killed_for_real(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    client = ReferenceClient(repo.public, tmp_path / "client")
    project = Path(__file__).parent.parent.parent
    for good in (0, 3, 8):
        command = [sys.executable, "-c", KILLED, project, repo.path, images["1.0"], str(good)]
        assert subprocess.run(command, check=False).returncode == -9
        assert client.releases() == {}
    put(repo, request("1.0", images))
    assert client.releases() == {"1.0": 1}


def test_a_killed_run_is_taken_up_not_begun_again(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    told = []
    good = 0
    while True:
        try:
            put(
                replace(repo, disk=FaultyDisk(good)),
                request("1.0", images),
                on_progress=lambda what, *_: told.append(what),
            )
            break
        except PowerCut:
            good += 1
            if "full rootfs" in told and any((repo.public / "targets").rglob("*.full")):
                told.clear()
    assert "hash rootfs" in told
    assert "full rootfs" not in told


def test_a_payload_that_was_damaged_meanwhile_is_built_again(tmp_path: Path, images):
    repo = make_repo(tmp_path)
    with pytest.raises(PowerCut):
        put(replace(repo, disk=FaultyDisk(6)), request("1.0", images))
    (blob,) = repo.public.glob("blobs/*.payload")
    good = blob.read_bytes()
    blob.write_bytes(b"damaged" + good[7:])
    manifest = put(repo, request("1.0", images)).manifest
    assert manifest.image("rootfs").full.index.hex == blob.stem
    assert blob.read_bytes() == good
