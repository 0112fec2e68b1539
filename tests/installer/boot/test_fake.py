"""The fake boot loader behaves as the real ones do."""

from pathlib import Path

import pytest

from slipstream.delta.manifest import Place
from slipstream.installer.ports import Booted, BootFiles
from tests.installer.boot.conformance import BootControlConformance, Rig, root_of
from tests.installer.boot.fake import FakeBoot


class FakeRig:
    def __init__(self, folder: Path) -> None:
        self._boot = FakeBoot()
        self._folder = folder

    def control(self) -> FakeBoot:
        return self._boot

    def boot_files(self, counter: int) -> BootFiles:
        kernel = self._folder / f"kernel-{counter}"
        kernel.write_bytes(b"kernel %d" % counter)
        options = f"roothash={root_of(counter)}"
        return BootFiles("Gateway", str(counter), options, {Place.LINUX: kernel})

    def leave_room(self, room_bytes: int) -> None:
        self._boot.leave_room(room_bytes)

    def boot(self) -> Booted | None:
        return self._boot.boot()


class TestFakeBoot(BootControlConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return FakeRig(tmp_path)
