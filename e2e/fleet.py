"""The other end of the link: `slipstream serve` on the host, and what the device told it."""

import json
import re
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.guest import PRODUCT
from slipstream.delta.errors import SlipstreamError
from slipstream.demo.commands import COMMAND, run_slipstream

DEVICE = "edge-1"
POLL_INTERVAL_S = 5
STOP_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Fleet:
    """A server with one device, over a copy of a repository. A context manager: it ends the server."""

    folder: Path
    token: str = ""
    port: int = 0
    _server: subprocess.Popen[str] | None = field(default=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()

    @property
    def repo(self) -> Path:
        """The repository that is served."""
        return self.folder / "repo"

    def start(self, repo: Path) -> None:
        """Copy `repo`, sign anew what expires, serve it, and register the device."""
        shutil.copytree(repo, self.repo)
        run_slipstream("repo", "refresh", str(self.repo), say=lambda _: None)
        log = self.folder / "server.log"
        words = ("serve", str(self.repo), "--listen", "127.0.0.1:0", "--poll-interval", str(POLL_INTERVAL_S))  # fmt: skip
        with log.open("w") as errors:
            self._server = subprocess.Popen(
                [*COMMAND, *words], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise SlipstreamError("the server did not start", where=log, got=repr(line))
        self.port = int(found[1])
        self.token = self._ask("/v1/devices", {"id": DEVICE, "product": PRODUCT})["token"]

    def reports(self) -> list[dict[str, Any]]:
        """What the device reported, oldest first."""
        found: list[dict[str, Any]] = self._ask(f"/v1/devices/{DEVICE}/reports?limit=500")[
            "reports"
        ]
        return found[::-1]

    def device(self) -> dict[str, Any]:
        """How the server sees the device."""
        found: dict[str, Any] = self._ask("/v1/devices")["devices"][0]
        return found

    def bytes_served(self) -> int:
        """Bytes of content that the server handed out so far, by its own count."""
        rows = re.findall(
            r"^slipstream_served_bytes_total\{.*\} (\S+)$", self._get("/metrics"), re.MULTILINE
        )
        return sum(int(float(row)) for row in rows)

    def _ask(self, path: str, body: dict[str, str] | None = None) -> Any:
        return json.loads(self._get(path, body))

    def _get(self, path: str, body: dict[str, str] | None = None) -> str:
        """What the server answers to its operator; with a body the request is a POST."""
        token = (self.repo / "server/operator.token").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read(), "utf-8")
