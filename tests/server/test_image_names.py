"""image_names.py: a misspelt image is found before anything is hashed; a change that is meant is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.delta.errors import UsageError
from slipstream.delta.manifest import Place
from slipstream.server.keys import no_passphrase
from slipstream.server.publish import Published, publish
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest
from slipstream.server.uki import UkiRequest, build_uki
from tests.server.boot_parts import OS_RELEASE, any_kernel
from tests.server.repositories import NOW, make_repo, public_files


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return make_repo(tmp_path)


def put(repo: Repository, version: str, *names: str, **more: object) -> Published:
    """A release of images of these names, each with its own small content."""
    images = {}
    for name in names:
        path = repo.path.parent / f"{name}-{version}.img"
        path.write_bytes(f"{name} of {version}".encode() * 100)
        places = {"linux": Place.LINUX, "initrd": Place.INITRD}
        images[name] = (places.get(name, Place.PARTITION), path)
    options = "quiet" if "linux" in names else ""
    asked = ReleaseRequest(version, images, options=options, jobs=1)
    return publish(repo, replace(asked, **more), passphrases=no_passphrase, now=NOW)


@pytest.mark.parametrize(
    "names, says",
    [
        (("rootf", "linux"), "got linux, rootf. Did you mean rootfs for rootf?"),
        (("rootfs",), "expected linux, rootfs, got rootfs"),
        (("rootfs", "linux", "data"), "got data, linux, rootfs"),
    ],
)
def test_other_names_than_the_last_release_had_are_refused(
    repo: Repository, names: tuple[str, ...], says: str
) -> None:
    put(repo, "1.0", "rootfs", "linux")
    before = public_files(repo)

    with pytest.raises(UsageError, match=r"not named as those of release 1\.0") as refused:
        put(repo, "2.0", *names)

    assert says in str(refused.value)
    assert "--change-images" in str(refused.value)
    assert "release 2.0" in str(refused.value)
    assert public_files(repo) == before


def test_a_change_that_is_meant_is_what_the_next_release_is_compared_with(repo: Repository) -> None:
    put(repo, "1.0", "rootfs", "linux")
    put(repo, "2.0", "rootfs", "data", "linux", change_images=True)
    again = put(repo, "2.0", "rootfs", "data", "linux")  # it is published: nothing is new
    assert again.already

    with pytest.raises(UsageError, match=r"of release 2\.0"):
        put(repo, "3.0", "rootfs", "linux")
    assert put(repo, "3.0", "rootfs", "data", "linux").manifest.counter == 3


def test_a_new_channel_is_compared_with_the_product_and_then_with_itself(repo: Repository) -> None:
    put(repo, "1.0", "rootfs", "linux")

    with pytest.raises(UsageError, match=r"of release 1\.0"):
        put(repo, "2.0", "usr", "linux", channel="beta")
    put(repo, "2.0", "usr", "linux", channel="beta", change_images=True)
    put(repo, "3.0", "usr", "linux", channel="beta")
    with pytest.raises(UsageError, match=r"of release 1\.0"):
        put(repo, "4.0", "usr", "linux")


def test_a_kernel_names_what_the_last_release_mounts(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(OS_RELEASE)
    (tmp_path / "root.img").write_bytes(b"root file system" * 1000)

    def uki(*names: str, change_images: bool = False) -> set[str]:
        images = dict.fromkeys(names, tmp_path / "root.img")
        asked = UkiRequest(
            images, any_kernel(), tmp_path / "os-release", change_images=change_images
        )
        return set(build_uki(repo, asked, tmp_path / "2.efi").roots)

    assert uki("root") == {"root"}  # the first release names them
    put(repo, "1.0", "rootfs", "data", "linux")

    assert uki("rootfs") == {"rootfs"}
    with pytest.raises(UsageError, match=r"--image: .*expected rootfs, got root\b.*Did you mean"):
        uki("root")
    with pytest.raises(UsageError, match="expected rootfs, got rootfs, usr"):
        uki("rootfs", "usr")
    assert uki("root", change_images=True) == {"root"}
