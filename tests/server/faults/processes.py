"""`slipstream serve` as a process of its own, and what talks to it over a real socket.

Servers are forked from a process that has imported everything: to start one takes a tenth of the
processor time of a new interpreter, and there are a hundred of them in these tests.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slipstream.server.serve import serve
from tests.server.conftest import OPERATOR_TOKEN
from tests.server.faults.meddling import Meddling

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])
WAIT_S = 120.0  # for what must come: the machine may be busy with other tests


@dataclass
class Server:
    """One process. Its log is a file: what it says must not depend on who reads."""

    process: BaseProcess
    log: Path
    port: int = 0  # 0: it died before it listened
    _from: int = 0

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_ready(self) -> None:
        """Until it says where it listens, or has died as if by kill -9."""
        give_up = time.monotonic() + WAIT_S
        while not self.died():
            for line in self.said():
                if line.get("event") == "serving":
                    self.port = int(urlsplit(line["url"]).port or 0)
                    return
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.02)

    def died(self) -> bool:
        """Whether it runs no more, by SIGKILL: there is no other end."""
        code = self.process.exitcode
        assert code in (None, -signal.SIGKILL), self.log.read_text()
        return code is not None

    def said(self) -> list[Mapping[str, Any]]:
        """The log as far as it has come."""
        text = self.log.read_bytes()[self._from :]
        return [json.loads(one) for one in text.splitlines(keepends=True) if one.endswith(b"\n")]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join()

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


def _serve(
    public: Path, database_url: str, token: Path, log: Path, meddling: Meddling | None
) -> None:
    """What `slipstream serve` calls: a test's folder has no keys to be a whole repository."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
    if meddling is not None:
        meddling.begin()
    serve(public, listen="127.0.0.1:0", database_url=database_url, operator_token_file=token)


@contextmanager
def serving(
    public: Path, database_url: str, name: str = "server", meddling: Meddling | None = None
) -> Iterator[Server]:
    """A server that listens, killed at the end if it still runs."""
    folder = public.parent
    token = folder / "operator.token"
    token.write_text(OPERATOR_TOKEN)
    token.chmod(0o600)
    log = folder / f"{name}.log"
    log.touch()
    arguments = (public, database_url, token, log, meddling)
    process = _FORKS.Process(target=_serve, args=arguments, daemon=True)
    server = Server(process, log, _from=log.stat().st_size)
    process.start()
    try:
        server.wait_ready()
        yield server
    finally:
        if not server.died():
            server.kill()


class Refused(Exception):
    """503 with Retry-After: the device comes again."""


@dataclass
class Gadget:
    """A simulated device: what it runs, what it was told, the report that was not answered yet."""

    name: str
    token: str
    fails: bool = False  # to install what it is told to
    runs: int = 1
    unsent: list[dict[str, Any]] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)  # keys of reports

    def step(self, server: Server, roots: Mapping[int, str], told: set[str]) -> None:
        """Poll, do what was told, report; any of it may end with a server that dies, or Refused."""
        while self.unsent:
            self._ask(server, "/v1/report", self.unsent[0])
            self.acknowledged.append(self.unsent.pop(0)["key"])
        body = {
            "device": self.name,
            "product": "gateway",
            "release": f"{self.runs}.0",
            "counter": self.runs,
            "booted_root": roots[self.runs],
        }
        answer = self._ask(server, "/v1/poll", body)
        if answer["action"] != "install":
            return
        told.add(self.name)
        target = answer["counter"]
        if not self.fails:
            self.runs = target
        for kind in ("failed",) if self.fails else ("installed", "confirmed"):
            self.unsent.append(
                {
                    "key": f"{self.name}-{kind}-{target}",
                    "device": self.name,
                    "kind": kind,
                    "release": f"{target}.0",
                    "booted_root": roots[target] if kind == "confirmed" else None,
                }
            )

    def _ask(self, server: Server, path: str, body: Mapping[str, Any]) -> Any:
        status, answer, headers = server.call("POST", path, body, token=self.token)
        if status == 503 and int(headers["Retry-After"]) > 0:
            raise Refused(answer["error"])
        assert status == 200, answer
        return answer


UNANSWERED = (OSError, HTTPException)
