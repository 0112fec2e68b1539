"""The main job of the device, on a repository in memory and a device in a folder."""

import asyncio
from pathlib import Path

import pytest

from tests.installer.lab import Lab, change, make_image


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_first_install_uses_the_full_payload(lab: Lab) -> None:
    one = lab.publish("1.0", 1, make_image(1))

    result = asyncio.run(lab.install())

    assert (result.slot, result.release) == ("a", "1.0")
    assert lab.holds("a", one)
    assert lab.reboot() == "a"
    assert lab.fake.staged["a", 1].files == {"linux": b"kernel 1.0"}


def test_an_update_uses_the_delta(lab: Lab) -> None:
    image = make_image(1)
    one = lab.publish("1.0", 1, image)
    lab.preinstall(one)
    two = lab.publish("2.0", 2, change(image, 700_000), source=image)

    result = asyncio.run(lab.install())

    assert result.slot == "b"
    assert lab.holds("b", two)
    assert lab.holds("a", one)
    assert two.images["rootfs"].delta is not None
    # The kernel's full payload comes too.
    kernel = two.images["kernel"].full.body_size
    assert result.bytes_fetched == two.images["rootfs"].delta.body_size + kernel
    assert lab.reboot() == "b"
