"""The simulated device boots what stands in its slots, and its health command judges that."""

import json
from pathlib import Path

import pytest

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.pe import dump_pe
from slipstream.demo.machine import Machine, make_machine
from slipstream.demo.selftest import main as selftest
from tests.demo.trees import EXT4_BYTES, make_pair


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A device with one boot entry, for slot b, which is empty."""
    root, folder = tmp_path / "root.json", tmp_path / "device"
    root.write_text("{}")
    made = make_machine(folder, url="http://host", root=root, token="t", image_bytes=EXT4_BYTES)
    entry = made.esp / "EFI/Linux/0007b.efi"
    texts = {".osrel": b"IMAGE_ID=gateway\nIMAGE_VERSION=7\n", ".cmdline": b"roothash=00 quiet"}
    entry.write_bytes(dump_pe({**texts, ".linux": b"kernel"}))
    return made


def put(machine: Machine, slot: str, content: bytes) -> None:
    with (machine.folder / "disk.img").open("r+b") as disk:
        disk.seek(machine.offset_of(slot))
        disk.write(content)


@pytest.mark.parametrize("kind", ["ext4", "squashfs"])
def test_booted_release_is_read_from_its_file_system(
    machine: Machine, tmp_path: Path, kind: str
) -> None:
    images = dict(zip(("ext4", "squashfs"), make_pair(tmp_path, 7), strict=True))
    put(machine, "b", images[kind].read_bytes())

    assert machine.boot() == "0007b.efi"

    run = machine.folder / "run"
    assert (run / "slot").read_text() == "b\n"
    assert (run / "cmdline").read_text() == "roothash=00 quiet\n"
    assert json.loads((run / "release.json").read_text())["counter"] == 7
    assert "gateway 7: self-test passed" in (run / "gateway").read_text()
    assert selftest(run) == 0


@pytest.mark.parametrize(("content", "code"), [(b"", 1), (b"hsqs cut short", 0), (b"unknown", 0)])
def test_image_without_application_is_judged_by_its_head(
    machine: Machine, content: bytes, code: int
) -> None:
    run = machine.folder / "run"
    for name in ("gateway", "release.json"):
        (run / name).write_text("of what ran before")
    put(machine, "b", content)

    machine.boot()

    assert not (run / "gateway").exists()
    assert not (run / "release.json").exists()
    assert selftest(run) == code


def test_nothing_to_boot_is_an_error(machine: Machine) -> None:
    (machine.esp / "EFI/Linux/0007b.efi").unlink()

    with pytest.raises(SlipstreamError, match="nothing boots"):
        machine.boot()
