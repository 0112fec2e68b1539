"""Artifacts: published as they are, described and signed, never changed."""

import hashlib
import json
from dataclasses import replace

import pytest

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.manifest import Place, parse_manifest
from slipstream.server.artifacts import list_artifacts
from slipstream.server.catalog import ArtifactOffer, read_catalog
from slipstream.server.keys import no_passphrase
from slipstream.server.publish import publish
from slipstream.server.repo import open_repo
from slipstream.server.request import ReleaseRequest
from slipstream.server.sign import read_in_force
from tests.server.faulty_disk import FaultyDisk, PowerCut
from tests.server.reference_client import ReferenceClient
from tests.server.repositories import NOW, make_repo, public_files

SWU = bytes(range(256)) * 20


@pytest.fixture
def swu(tmp_path):
    path = tmp_path / "gateway-2.0.swu"
    path.write_bytes(SWU)
    return path


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path)


def put(repo, asked):
    return publish(repo, asked, passphrases=no_passphrase, now=NOW)


def test_a_release_of_artifacts_alone(tmp_path, repo, swu):
    made = put(repo, ReleaseRequest("2.0", {}, artifacts={"os": swu}))
    assert (made.manifest.images, made.notes) == ((), ())
    sha256 = hashlib.sha256(SWU).hexdigest()
    assert (repo.public / "blobs" / f"{sha256}.artifact").read_bytes() == SWU
    assert ReferenceClient(repo.public, tmp_path / "client").releases() == {"2.0": 1}
    target = read_in_force(repo).targets.signed.targets["releases/2.0/os.artifact"]
    raw = repo.target(target.path, target.hashes["sha256"]).read_bytes()
    target.verify_length_and_hashes(raw)
    assert json.loads(raw) == target.custom
    (release,) = read_catalog(repo.public).releases
    assert release.foreign
    assert release.artifacts == (
        ArtifactOffer(
            "os",
            "gateway-2.0.swu",
            len(SWU),
            sha256,
            hashlib.sha1(SWU).hexdigest(),
            hashlib.md5(SWU).hexdigest(),
        ),
    )
    assert read_catalog(repo.public).newest("gateway", "stable") is None


def test_beside_images(repo, swu, tmp_path):
    image = tmp_path / "rootfs.img"
    image.write_bytes(SWU)
    images = {"rootfs": (Place.PARTITION, image)}
    put(repo, ReleaseRequest("2.0", images, artifacts={"os": swu, "app": swu}, jobs=1))
    (release,) = read_catalog(repo.public).releases
    assert [one.artifact for one in release.artifacts] == ["app", "os"]
    assert [one.image for one in release.images] == ["rootfs"]
    assert not release.foreign
    assert len(list(repo.public.glob("blobs/*.artifact"))) == 1


def test_a_version_never_changes(repo, swu):
    asked = ReleaseRequest("2.0", {}, artifacts={"os": swu})
    put(repo, asked)
    before = public_files(repo)
    assert put(repo, asked).already
    swu.write_bytes(SWU[1:])
    for other in (asked, replace(asked, artifacts={"os": swu, "app": swu})):
        with pytest.raises(UsageError, match="with other artifacts; expected the same bytes as os"):
            put(repo, other)
    assert public_files(repo) == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("two words.swu", b"x", "cannot stand in a URL"),
        (".hidden.swu", b"x", "cannot stand in a URL"),
        ("empty.swu", b"", "artifact_bytes out of range"),
        ("missing.swu", None, "cannot be read"),
    ],
)
def test_refused(repo, tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    before = public_files(repo)
    with pytest.raises(UsageError, match=message):
        put(repo, ReleaseRequest("2.0", {}, artifacts={"os": tmp_path / name}))
    assert public_files(repo) == before


def test_cut_at_every_operation(repo, tmp_path, swu):
    client = ReferenceClient(repo.public, tmp_path / "client")
    asked = ReleaseRequest("2.0", {}, artifacts={"os": swu})
    cuts = 0
    while True:
        try:
            put(open_repo(repo.path, disk=FaultyDisk(cuts)), asked)
            break
        except PowerCut:
            assert client.releases() == {}
            cuts += 1
    assert cuts >= 5
    assert client.releases() == {"2.0": 1}


def test_keys_are_missed_before_anything_is_written(repo, swu):
    (repo.keys / "targets-1.key").unlink()
    before = public_files(repo)
    with pytest.raises(UsageError, match="not enough keys"):
        put(repo, ReleaseRequest("2.0", {}, artifacts={"os": swu}))
    assert public_files(repo) == before


def test_an_entry_that_makes_no_sense_is_left_out(folder):
    folder.release("2.0", 2)
    custom = {"artifact": "os", "file_name": "../x", "artifact_bytes": 1, "sha256": "0" * 64}
    folder.targets["releases/2.0/os.artifact"] = {
        "length": 1,
        "hashes": {"sha256": "0" * 64},
        "custom": {**custom, "sha1": "0" * 40, "md5": "0" * 32},
    }
    folder.write()
    catalog = read_catalog(folder.public)
    assert (catalog.releases[0].artifacts, catalog.skipped) == ((), 1)


def test_the_publisher_reads_only_what_it_wrote(repo, swu):
    made = put(repo, ReleaseRequest("2.0", {}, artifacts={"os": swu}))
    targets = read_in_force(repo).targets.signed
    assert list_artifacts(targets, "2.0") == made.artifacts
    assert list_artifacts(targets, "2") == ()
    targets.targets["releases/2.0/os.artifact"].unrecognized_fields["custom"]["md5"] = "x"
    with pytest.raises(FormatError, match="md5"):
        list_artifacts(targets, "2.0")
    parse_manifest(next(repo.public.glob("targets/releases/2.0/*.manifest.json")).read_bytes())
