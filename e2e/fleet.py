"""The other end of the link: `slipstream serve` on the host, and what the device told it."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.guest import PRODUCT
from slipstream.delta.limits import PAGE_ROWS_MAX
from slipstream.demo.commands import run_slipstream
from slipstream.demo.server import Server, start_server

DEVICE = "edge-1"
POLL_INTERVAL_S = 5


@dataclass(slots=True)
class Fleet:
    """A server with one device, over a copy of a repository. A context manager: it ends the server."""

    folder: Path
    token: str = ""
    port: int = 0
    _server: Server | None = field(default=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()

    @property
    def repo(self) -> Path:
        """The repository that is served."""
        return self.folder / "repo"

    def start(self, repo: Path) -> None:
        """Copy `repo`, sign anew what expires, serve it, and register the device."""
        shutil.copytree(repo, self.repo)
        run_slipstream("repo", "refresh", str(self.repo), say=lambda _: None)
        interval = ("--poll-interval", str(POLL_INTERVAL_S))
        self._server = start_server(self.repo, *interval, log=self.folder / "server.log")
        self.port = int(self._server.url.rpartition(":")[2])
        made = self._running.ask("/api/v1/devices", {"id": DEVICE, "product": PRODUCT})
        self.token = made["token"]

    def reports(self) -> list[dict[str, Any]]:
        """What the device reported, oldest first."""
        shown = self._running.ask(f"/api/v1/devices/{DEVICE}?limit={PAGE_ROWS_MAX}")
        found: list[dict[str, Any]] = shown["reports"]
        return found[::-1]

    def device(self) -> dict[str, Any]:
        """How the server sees the device."""
        found: dict[str, Any] = self._running.ask(f"/api/v1/devices/{DEVICE}")["device"]
        return found

    def bytes_served(self) -> int:
        """Bytes of content that the server handed out so far, by its own count."""
        rows = re.findall(
            r"^slipstream_served_bytes_total\{.*\} (\S+)$",
            self._running.get("/metrics"),
            re.MULTILINE,
        )
        return sum(int(float(row)) for row in rows)

    @property
    def _running(self) -> Server:
        assert self._server is not None, "start comes first"
        return self._server
