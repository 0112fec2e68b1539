"""`slipstream serve` as a process of its own: started, asked as its operator would ask, ended."""

import json
import re
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.commands import COMMAND

ASK_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0  # for what is under way


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. `says` is its first line."""

    repo: Path
    url: str
    says: str
    _process: subprocess.Popen[str]

    @property
    def token_file(self) -> Path:
        """Holds the operator's token."""
        return self.repo / "server/operator.token"

    def ask(self, path: str, body: dict[str, str] | None = None) -> Any:
        """What the server answers to its operator, as JSON; with a body the request is a POST."""
        return json.loads(self.get(path, body))

    def get(self, path: str, body: dict[str, str] | None = None) -> str:
        """The same, as text."""
        token = self.token_file.read_text().strip()
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S) as answer:
            return str(answer.read(), "utf-8")

    def stop(self) -> None:
        """End it: SIGTERM first."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def serve_words(repo: Path, *options: str) -> tuple[str, ...]:
    """The command that serves a repository on this machine, at a port that is free."""
    return ("serve", str(repo), "--listen", "127.0.0.1:0", *options)


def start_server(repo: Path, *options: str, log: Path) -> Server:
    """Start it and wait until it listens. `log` gets its standard error.

    Raises SlipstreamError if it does not start.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*COMMAND, *serve_words(repo, *options)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    found = re.search(r"http://\S+", line)
    server = Server(repo, found[0].rstrip("/") if found else "", line, process)
    if found is None:
        server.stop()
        raise SlipstreamError("the server did not start", where=log, got=repr(line))
    return server
