"""A server that commands talk to, in a thread beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from slipstream.cli import cli
from slipstream.server.app import Settings
from tests.server.conftest import NOW, OPERATOR_TOKEN, QUICK, Folder
from tests.server.serving import serving


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
    settings = Settings(
        public, database_url, OPERATOR_TOKEN, now=lambda: NOW, password_hasher=QUICK
    )
    # Commands and server share this process's standard output.
    with capture_logs(), serving(settings) as url:
        yield Operated(url, folder, token_file)
