"""What a delta starts from on a device that has installed nothing yet: what its factory put there."""

import asyncio
import os
from pathlib import Path

import pytest

from slipstream.delta.errors import NothingToDo
from slipstream.delta.manifest import Place
from slipstream.installer.install import InstallResult
from slipstream.installer.prepare import prepare
from tests.installer.lab import Lab, LabRelease, change, make_image

IMAGE, KERNEL = make_image(1), make_image(2)[:300_000]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


class Factory:
    """A device that runs 1.0 without a record of it; 2.0 is on offer with deltas of all images."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder)
        self.lab.preinstall(self.lab.publish("1.0", 1, IMAGE, kernel=KERNEL))
        self.kernel = folder / "esp/kernel"
        self.kernel.write_bytes(KERNEL)
        self.lab.fake.staged["a", 1].paths[Place.LINUX] = self.kernel
        self.second = self.publish("2.0", 2)

    def publish(self, release: str, counter: int) -> LabRelease:
        image, kernel = change(IMAGE, 5), change(KERNEL, 5)
        return self.lab.publish(
            release, counter, image, source=IMAGE, kernel=kernel, kernel_source=KERNEL
        )

    def payloads(self) -> list[str]:
        return [
            one["payload"] for one in asyncio.run(prepare(self.lab.device())).to_json()["images"]
        ]

    def install(self) -> InstallResult:
        result = asyncio.run(self.lab.install())
        kept = self.lab.device().boot_file("b", "kernel")
        assert self.lab.holds("b", self.second)
        assert kept.read_bytes() == self.second.images["kernel"].data
        return result


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return Factory(tmp_path)


def test_the_boot_file_that_runs_is_a_source_though_no_record_knows_it(factory: Factory) -> None:
    assert factory.payloads() == ["delta", "delta"]

    result = factory.install()

    deltas = [one.delta for one in factory.second.images.values()]
    assert result.bytes_fetched == sum(one.body_size for one in deltas if one is not None)


def test_a_boot_file_of_other_bytes_is_none(factory: Factory) -> None:
    factory.kernel.write_bytes(change(KERNEL, 100_000))

    assert factory.payloads() == ["delta", "full"]
    factory.install()


@pytest.mark.parametrize("how", ["empty", "gone", "folder"])
def test_a_boot_file_that_cannot_be_read_is_none(factory: Factory, how: str) -> None:
    factory.kernel.unlink()
    if how == "empty":
        factory.kernel.touch()
    if how == "folder":
        factory.kernel.mkdir()

    device = factory.lab.device()
    plan = asyncio.run(prepare(device))

    assert [one.payload.source is None for one in plan.images] == [False, True]
    assert any("is no source for kernel" in notice for notice in device.notices)
    factory.install()


def test_the_kept_boot_file_goes_before_it(factory: Factory) -> None:
    kept = factory.lab.device().boot_file("a", "kernel")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(KERNEL)
    factory.kernel.unlink()

    assert factory.payloads() == ["delta", "delta"]
    factory.install()


def test_nothing_is_read_for_a_release_that_runs_already(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it looks for a source")

    monkeypatch.setattr(factory.lab.fake, "entry_file", refuse)

    with pytest.raises(NothingToDo):
        asyncio.run(prepare(factory.lab.device(), "1.0"))
