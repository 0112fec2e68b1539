"""A server that commands talk to, in a thread beside them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from slipstream.cli import cli
from slipstream.server.app import Settings, make_app
from slipstream.server.store.database import Database
from tests.server.conftest import NOW, OPERATOR_TOKEN, QUICK, Folder


@dataclass
class Operated:
    """A running server and a command line that knows it."""

    url: str
    folder: Folder
    token_file: Path

    def run(self, *words: object) -> Result:
        environment = {
            "SLIPSTREAM_SERVER": self.url,
            "SLIPSTREAM_TOKEN_FILE": str(self.token_file),
        }
        return CliRunner().invoke(cli, [str(word) for word in words], env=environment)

    def say(self, *words: object) -> str:
        """What a command that has to succeed prints."""
        done = self.run(*words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        return done.output


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Operated]:
    """A server over a repository with the releases 1.0 and 2.0 of a gateway."""
    public = tmp_path / "repo" / "public"
    for name in ("metadata", "targets", "blobs"):
        (public / name).mkdir(parents=True)
    folder = Folder(public)
    for version, counter in (("1.0", 1), ("2.0", 2)):
        folder.release(version, counter)
        folder.full(version, "rootfs", str(counter) * 64, version.encode())
    folder.write()
    token_file = tmp_path / "token"
    token_file.write_text(OPERATOR_TOKEN + "\n")
    database_url = f"sqlite+aiosqlite:///{tmp_path / 'fleet.sqlite'}"
    # Commands and server share this process's standard output.
    with capture_logs(), _running(public, database_url) as url:
        yield Operated(url, folder, token_file)


class _running:
    def __init__(self, public: Path, database_url: str) -> None:
        settings = Settings(
            public, database_url, OPERATOR_TOKEN, now=lambda: NOW, password_hasher=QUICK
        )
        self._serve: Callable[[], None] = lambda: asyncio.run(self._main(settings))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    async def _main(self, settings: Settings) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = make_app(settings, await Database.open(settings.database_url))
        async with TestServer(app) as server:
            self.url = str(server.make_url("/"))
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(30)
        return self.url

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
