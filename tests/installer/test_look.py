"""look.py: what a process of its own says of a repository, as the agent hears it."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from slipstream.delta.errors import Rejected, SlipstreamError, Unavailable
from slipstream.installer.contact import Answer
from slipstream.installer.look import look
from tests.installer import lab as lab_module
from tests.installer.lab import Lab, make_image

IMAGE = make_image(1, 9000)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    # The process has the real clock: what is signed must be valid by it.
    monkeypatch.setattr(lab_module, "START", datetime.now(UTC).replace(microsecond=0))
    made = Lab(tmp_path, real_boot=True, static=True)
    (tmp_path / "esp/loader").mkdir()
    return made


T = TypeVar("T")


def looked(lab: Lab) -> Answer:
    """What a look finds."""
    return served(lab, lambda: look(lab.device()))


def served(lab: Lab, job: Callable[[], Awaitable[T]]) -> T:
    """Do something while the repository is served on loopback."""

    async def handle(request: web.Request) -> web.Response:
        body = lab.files.get(request.path[1:])
        return web.Response(status=404) if body is None else web.Response(body=body)

    async def main() -> T:
        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        text = lab.config_path.read_text().replace("127.0.0.1:1/", f"127.0.0.1:{port}/")
        lab.config_path.write_text(text)
        try:
            return await job()
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_a_release_is_found_by_its_name(lab: Lab) -> None:
    lab.publish("1.0", 1, IMAGE)

    assert looked(lab) == Answer(install=True, release="1.0", counter=1)


def test_nothing_is_no_error(lab: Lab) -> None:
    answer = looked(lab)

    assert not answer.install
    assert "no release is on offer" in answer.reason


def test_what_is_not_signed_is_rejected(lab: Lab) -> None:
    lab.publish("1.0", 1, IMAGE)
    lab.files["metadata/timestamp.json"] = b"{}"

    with pytest.raises(Rejected, match="timestamp"):
        looked(lab)


def test_an_installer_at_work_is_waited_for(lab: Lab) -> None:
    with lab.device().lock():
        answer = looked(lab)

    assert not answer.install
    assert answer.reason


def test_a_release_that_waits_for_its_trial_is_no_error(lab: Lab) -> None:
    lab.publish("1.0", 1, IMAGE)
    asyncio.run(lab.install())

    answer = looked(lab)

    assert not answer.install
    assert "release 1.0 waits for its trial" in answer.reason


def test_a_repository_that_is_not_whole_is_tried_later(lab: Lab) -> None:
    del lab.files["metadata/timestamp.json"]

    with pytest.raises(Unavailable):
        looked(lab)


def test_a_process_that_dies_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(SlipstreamError, match=r"did not say what it found.*exited with 1"):
        looked(lab)


def test_the_agent_that_waits_holds_nothing_of_it(lab: Lab) -> None:
    """docs/device.md, "Memory": `device run` after a look that found nothing."""

    async def run_until_it_waits() -> tuple[int, str]:
        words = ("-m", "slipstream", "device", "run", "--config", str(lab.config_path))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                while b"no release is on offer" not in await process.stdout.readline():
                    pass
            folder = Path(f"/proc/{process.pid}")
            found = re.search(r"^VmRSS:\s+(\d+) kB", (folder / "status").read_text(), re.MULTILINE)
            assert found is not None
            return int(found[1]), (folder / "maps").read_text()
        finally:
            process.terminate()
            await process.wait()

    resident_kib, maps = served(lab, run_until_it_waits)

    assert resident_kib < 48 * 1024
    assert "libcrypto" in maps or "_ssl" in maps, "what it needs to talk"
    assert "cryptography" not in maps
