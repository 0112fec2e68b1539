"""staging.py: the event loop turns while boot files are checked and copied, and a stop is heard."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slipstream.installer import staging, trial
from slipstream.installer.blocking import Stopped, unasked
from slipstream.installer.boot import esp
from slipstream.installer.boot.esp import Esp
from slipstream.installer.states import Committed, Verified
from tests.installer.lab import Lab, make_image
from tests.installer.test_trial import Rig, rig, template

__all__ = ["rig", "template"]  # fixtures


class Turning:
    """Blocks whoever calls it until the event loop has turned; `turned` says whether it did."""

    def __init__(self) -> None:
        self.calls = 0
        self._asked, self._answered = asyncio.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        self.calls += 1
        self._loop.call_soon_threadsafe(self._asked.set)
        assert self._answered.wait(10), "the event loop stands still"

    async def beside(self, work: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()

        async def feed() -> None:
            await self._asked.wait()
            self._answered.set()

        feeding = asyncio.create_task(feed())
        await work()  # type: ignore[misc]
        await feeding


@pytest.mark.parametrize("slow", ["check_kept_files", "stage"])
def test_the_loop_turns_while_an_install_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    lab = Lab(tmp_path)
    lab.publish("1.0", 1, make_image(1))

    async def check() -> None:
        turning = Turning()
        where = lab.fake if slow == "stage" else staging
        real = getattr(where, slow)
        monkeypatch.setattr(where, slow, lambda *words: (turning(), real(*words))[1])
        await turning.beside(lab.install)
        assert turning.calls == 1

    asyncio.run(check())
    assert isinstance(lab.device().journal.state, Committed)


def test_the_loop_turns_while_a_lost_entry_is_put_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.release(2)
    rig.install()
    rig.boot()
    rig.lose_entry("b")
    rig.boot()

    async def check() -> None:
        turning = Turning()
        real = staging.check_kept_files
        monkeypatch.setattr(
            staging, "check_kept_files", lambda *words: (turning(), real(*words))[1]
        )
        await turning.beside(lambda: trial.settle(rig.device()))

    asyncio.run(check())
    assert isinstance(rig.device().journal.state, Committed)


def test_a_stop_ends_staging_with_the_piece_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path)
    lab.publish("1.0", 1, make_image(1))
    began = threading.Event()

    def stage(*words: object) -> None:
        began.set()
        while True:
            words[-1]()  # type: ignore[operator]

    async def check() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(lab.fake, "stage", stage)
            install = asyncio.create_task(lab.install())
            await asyncio.to_thread(began.wait)
            install.cancel()
            with pytest.raises(asyncio.CancelledError):
                await install
        assert isinstance(lab.device().journal.state, Verified)
        await lab.install()

    asyncio.run(check())
    assert isinstance(lab.device().journal.state, Committed)


def test_copy_and_compare_ask_before_each_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esp, "COPY_BYTES", 10)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(100))
    asked = 0

    def go_on() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Stopped

    with pytest.raises(Stopped):
        Esp(tmp_path).copy(source, target, go_on)
    assert target.stat().st_size == 30
    asked = 0
    Esp(tmp_path).copy(source, target, unasked)
    with pytest.raises(Stopped):
        Esp(tmp_path).equal(source, target, go_on)
