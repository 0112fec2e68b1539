"""`slipstream serve` as a process of its own, and what talks to it over a real socket."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.server.conftest import OPERATOR_TOKEN

# What `slipstream serve` calls: a test's folder has no keys to be a whole repository.
_SERVE = """
import sys
from pathlib import Path
from slipstream.server.serve import serve
serve(Path(sys.argv[1]), listen="127.0.0.1:0", database_url=sys.argv[2],
      operator_token_file=Path(sys.argv[3]))
"""
WAIT_S = 120.0  # for what must come: the machine may be busy with other tests


@dataclass
class Server:
    """One process. Its log is a file: what it says must not depend on who reads."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0
    _from: int = 0

    def wait_ready(self) -> None:
        """Until it says where it listens."""
        for line in self._lines_until("serving"):
            if line.get("event") == "serving":
                self.port = int(urlsplit(line["url"]).port or 0)

    def said(self) -> list[Mapping[str, Any]]:
        """The log as far as it has come."""
        text = self.log.read_bytes()[self._from :]
        return [json.loads(one) for one in text.splitlines(keepends=True) if one.endswith(b"\n")]

    def _lines_until(self, event: str) -> list[Mapping[str, Any]]:
        give_up = time.monotonic() + WAIT_S
        while True:
            found = self.said()
            if any(one.get("event") == event for one in found):
                return found
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def call(
        self, method: str, path: str, body: Any = None, *, token: str = OPERATOR_TOKEN
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON and headers of an answer. OSError or HTTPException without one."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else None, dict(response.getheaders())
        finally:
            connection.close()

    def register(self, name: str) -> str:
        """A new device's token."""
        body = {"id": name, "product": "gateway"}
        status, made, _ = self.call("POST", "/api/v1/devices", body)
        assert status == 201, made
        return str(made["token"])

    def until(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Ask as a device does, again and again, until it is answered with 200."""
        give_up = time.monotonic() + WAIT_S
        while True:
            status, answer, headers = self.call(method, path, body, **more)
            if status == 200:
                return answer
            assert (status, "Retry-After" in headers) == (503, True), answer
            assert time.monotonic() < give_up, answer
            time.sleep(0.1)


@contextmanager
def serving(public: Path, database_url: str, name: str = "server") -> Iterator[Server]:
    """A server that listens, killed at the end if it still runs."""
    folder = public.parent
    token = folder / "operator.token"
    token.write_text(OPERATOR_TOKEN)
    token.chmod(0o600)
    log = folder / f"{name}.log"
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, public, database_url, token], stderr=output
        )
    server = Server(process, log, _from=begin)
    try:
        server.wait_ready()
        yield server
    finally:
        if process.poll() is None:
            server.kill()


@dataclass
class Gadget:
    """A simulated device: what it runs, what it was told, the report that was not answered yet."""

    name: str
    token: str
    runs: int = 1
    unsent: list[dict[str, Any]] = field(default_factory=list)

    def step(self, server: Server, roots: Mapping[int, str], told: set[str]) -> None:
        """Poll, do what was told, report; any of it may end with a server that dies."""
        while self.unsent:
            self._send(server)
        body = {
            "device": self.name,
            "product": "gateway",
            "release": f"{self.runs}.0",
            "counter": self.runs,
            "booted_root": roots[self.runs],
        }
        status, answer, _ = server.call("POST", "/v1/poll", body, token=self.token)
        assert status == 200, answer
        if answer["action"] != "install":
            return
        told.add(self.name)
        self.runs = answer["counter"]
        for kind in ("installed", "confirmed"):
            self.unsent.append(
                {
                    "key": f"{self.name}-{kind}-{self.runs}",
                    "device": self.name,
                    "kind": kind,
                    "release": f"{self.runs}.0",
                    "booted_root": roots[self.runs] if kind == "confirmed" else None,
                }
            )

    def _send(self, server: Server) -> None:
        status, answer, _ = server.call("POST", "/v1/report", self.unsent[0], token=self.token)
        assert status == 200, answer
        self.unsent.pop(0)


UNANSWERED = (OSError, HTTPException)
