"""GNU gzip as a process: its deflate is its own, and no library makes the same bytes.

One of the two files of delta/ that touch the operating system (docs/adr/0010-packing.md). Any
other gzip (busybox, pigz) makes other bytes; `find_gnu_gzip` takes none of them.
"""

import re
import shutil
import subprocess
import threading
from dataclasses import dataclass

from slipstream.delta.errors import PackingUnavailable
from slipstream.delta.limits import GZIP_ANSWER_TIMEOUT_S, KIB

_VERSION = re.compile(rb"gzip ([0-9.]+)\n(?:.*\n)*?.*Free Software Foundation")
_PIECE_BYTES = 64 * KIB
# Without the caller's environment: GZIP=--rsyncable in it would change the output.
_ENVIRONMENT = {"LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class GnuGzip:
    """The command that stands in PATH, and its version."""

    command: str
    version: str


def find_gnu_gzip() -> GnuGzip | None:
    """GNU gzip, or None where there is no gzip or another one."""
    command = shutil.which("gzip")
    if command is None:
        return None
    try:
        answer = subprocess.run(
            [command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=_ENVIRONMENT,
            timeout=GZIP_ANSWER_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.match(answer.stdout)
    return None if found is None else GnuGzip(command, found[1].decode())


class GzipProcess:
    """One `gzip -n` run: feed it content, take the member that it writes. Close it in every case.

    A thread takes the output, so that neither pipe ever waits for the other; what it holds is at
    most what the content fed since the last call packs to. How late output comes depends on how
    busy the machine is: a long stream that other frames wait for too long is given up (repack.py).
    """

    def __init__(self, gzip: GnuGzip, level: int) -> None:
        try:
            self._process = subprocess.Popen(
                [gzip.command, "-n", f"-{level}", "-c"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # what was written is gone, what was read is here: nothing to flush
                env=_ENVIRONMENT,
            )
        except OSError as error:
            raise PackingUnavailable("gzip does not start", where=gzip.command) from error
        self._lock = threading.Lock()
        self._made = bytearray()
        self._reader = threading.Thread(target=self._read, name="gzip output", daemon=True)
        self._reader.start()

    def feed(self, content: bytes) -> bytes:
        """Give it content; what it has written by now. Waits while gzip is busy."""
        assert self._process.stdin is not None
        view = memoryview(content)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except OSError as error:
            raise self._died() from error
        return self._take()

    def finish(self, last: bytes) -> bytes:
        """Give it the last content; all the rest. Only `close` is left to do."""
        made = self.feed(last)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        if self._process.wait() != 0:
            raise self._died()
        return made + self._take()

    def close(self) -> None:
        """End the process, wherever it is; harmless when it has ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := self._process.stdout.read(_PIECE_BYTES):
            with self._lock:
                self._made += piece

    def _take(self) -> bytes:
        with self._lock:
            made = bytes(self._made)
            self._made.clear()
        return made

    def _died(self) -> PackingUnavailable:
        return PackingUnavailable("gzip ended before its time", got=f"exit {self._process.poll()}")
