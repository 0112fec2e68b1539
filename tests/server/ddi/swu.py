"""Debian's own swupdate as a device, and updates for it, signed as its manual says (CMS)."""

import asyncio
import hashlib
import os
import signal
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

DESCRIPTION = """software = {
    version = "%(version)s";
    hardware-compatibility = ["1.0"];
    files: ({ filename = "image"; path = "%(path)s"; sha256 = "%(sha256)s"; });
}
"""
# `identify` is what it sends as configData.
CONFIG = """globals : { loglevel = 4; };
suricatta : { };
identify : ({ name = "board"; value = "%s"; });
"""


@dataclass
class Maker:
    """Signs updates with a key of its own."""

    folder: Path

    def __post_init__(self) -> None:
        self.key, self.certificate = self.folder / "maker.key", self.folder / "maker.pem"
        _run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", self.key, "-out", self.certificate, "-days", "2"),
            *("-subj", "/CN=maker", "-addext", "extendedKeyUsage=emailProtection"),
        )

    def swu(self, version: str, data: bytes, path: str, *, broken: bool = False) -> Path:
        """An update that writes `data` to `path` on the device; `broken`: of another digest."""
        parts = self.folder / f"parts-{version}"
        parts.mkdir()
        (parts / "image").write_bytes(data)
        sha256 = hashlib.sha256(b"other" if broken else data).hexdigest()
        text = DESCRIPTION % {"version": version, "path": path, "sha256": sha256}
        (parts / "sw-description").write_text(text)
        _run(
            *("openssl", "cms", "-sign", "-in", parts / "sw-description", "-signer"),
            *(self.certificate, "-inkey", self.key, "-outform", "DER", "-nosmimecap", "-binary"),
            *("-out", parts / "sw-description.sig"),
        )
        made = self.folder / f"gateway-{version}.swu"
        names = b"sw-description\nsw-description.sig\nimage\n"
        with made.open("wb") as output:
            _run("cpio", "--quiet", "-o", "-H", "crc", cwd=parts, input=names, stdout=output)
        return made


@dataclass
class Swupdate:
    """A device: swupdate in suricatta mode, which asks `url` for updates."""

    name: str
    token: str
    url: str
    folder: Path
    certificate: Path
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = field(default=None, repr=False)

    def start(self, *options: str) -> None:
        """Run it; "-c 2" has it report that what is installed proved itself."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "swupdate.cfg"
        config.write_text(CONFIG % self.name)
        suricatta = f"-t DEFAULT -u {self.url} -i {self.name} -k {self.token} {' '.join(options)}"
        self._log = self.log_file.open("ab")
        self._process = subprocess.Popen(
            [
                *("swupdate", "-f", config, "-B", "none", "-H", "board:1.0", "-l", "4"),
                *("-k", self.certificate, "-u", suricatta),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # Its sockets: of two on one machine each needs its own.
            env={**os.environ, "TMPDIR": str(self.folder), "RUNTIME_DIRECTORY": str(self.folder)},
            cwd=self.folder,
            start_new_session=True,
        )

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    def stop(self) -> None:
        """End it with its children, as a device that loses power ends them."""
        if self._process is not None and self._log is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None
            self._log.close()

    def restart(self, *options: str) -> None:
        self.stop()
        self.start(*options)


@asynccontextmanager
async def thin_link(url: str, bytes_per_s: int) -> AsyncIterator[str]:
    """Another URL of the same server, whose answers come so fast and no faster.

    Whoever uses it has to be stopped inside.
    """
    origin = urlsplit(url)
    piece = 4096
    links: set[asyncio.Task[None] | None] = set()

    async def pump(reader: StreamReader, writer: StreamWriter, pause_s: float) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(piece):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(pause_s * len(data) / piece)
        writer.close()

    async def connect(reader: StreamReader, writer: StreamWriter) -> None:
        links.add(asyncio.current_task())
        behind, before = await asyncio.open_connection(origin.hostname, origin.port)
        await asyncio.gather(pump(reader, before, 0), pump(behind, writer, piece / bytes_per_s))
        for one in (writer, before):
            with suppress(ConnectionError):
                await one.wait_closed()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(60):
            await asyncio.gather(*(one for one in links if one is not None))


def _run(*command: object, **more: Any) -> None:
    quiet: dict[str, Any] = {} if "stdout" in more else {"stdout": subprocess.DEVNULL}
    subprocess.run(
        list(map(str, command)), check=True, stderr=subprocess.PIPE, timeout=60, **quiet, **more
    )
