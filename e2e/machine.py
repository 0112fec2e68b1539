"""One QEMU without KVM: power, serial console, QMP. What runs inside is none of its business.

Every wait has a deadline. The process is ended by its own id, whatever happens: when the context
ends, on Ctrl-C, and, should this process be killed, by the kernel (setpriv --pdeathsig).
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.firmware import Firmware
from slipstream.delta.errors import SlipstreamError

MEMORY_MIB = 768
PROCESSORS = 2
POLL_S = 0.1
QMP_TIMEOUT_S = 30.0
QUIT_TIMEOUT_S = 20.0
SERIAL_TAIL_CHARS = 1500


class TimedOut(SlipstreamError):
    """A step did not come to its end within its deadline, or the machine ended before."""


@dataclass(slots=True)
class Machine:
    """A virtual machine with one disk. `folder` gets its serial log, which goes over all power cuts.

    `disk` is a qcow2 image; `firmware` names the code and this machine's own variables. `write_log`
    gets every write and flush of the disk, of one start (write_log.py).
    """

    folder: Path
    disk: Path
    firmware: Firmware
    write_log: Path | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _sockets: Path | None = None
    _qmp: socket.socket | None = None
    _received: bytes = b""

    def __enter__(self) -> Self:
        # Not below `folder`: the path of a socket has at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="e2e-"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut_power()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def serial(self) -> Path:
        """The serial log. QEMU appends to it as the guest writes."""
        return self.folder / "serial.log"

    @property
    def agent_socket(self) -> Path:
        """Where the QEMU guest agent of the machine is reached."""
        assert self._sockets is not None
        return self._sockets / "agent"

    def power_on(self) -> None:
        """Start it from its firmware; it is off before."""
        assert self._process is None
        assert self._sockets is not None
        self.starts += 1
        self.mark(f"power on, {self.starts}")
        for path in self._sockets.iterdir():
            path.unlink()
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command()], stdout=log, stderr=log
            )
        self._qmp = self._connect(self._sockets / "qmp")
        self._received = b""
        self.execute("qmp_capabilities")

    def command(self) -> list[str]:
        """The command line of QEMU."""
        assert self._sockets is not None
        return [
            "qemu-system-x86_64",
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(PROCESSORS)),
            *("-m", str(MEMORY_MIB)),
            *self.firmware.arguments(),
            *("-blockdev", self._image()),
            *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
            *("-netdev", "user,id=net"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci"),
            *("-device", "i6300esb", "-action", "watchdog=reset"),
            *("-chardev", f"file,id=serial,path={self.serial},append=on"),
            *("-serial", "chardev:serial"),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,path={self.agent_socket},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
            *("-qmp", f"unix:{self._sockets / 'qmp'},server=on,wait=off"),
        ]

    def _image(self) -> str:
        """The disk as a block device of QEMU, called "disk".

        What the guest flushed is in the file, what it did not flush may be lost in QEMU when it is
        killed. With cache.no-flush flushed data would be lost as well.
        """
        if self.write_log is None:
            return f"driver=qcow2,node-name=disk,file.driver=file,file.filename={self.disk}"
        self.write_log.touch()
        image = f"file.driver=qcow2,file.file.driver=file,file.file.filename={self.disk}"
        log = f"log.driver=file,log.filename={self.write_log}"
        return f"driver=blklogwrites,node-name=disk,{image},{log}"

    def cut_power(self, why: str = "") -> None:
        """SIGKILL: what the guest has not flushed is gone. No-op when it is off."""
        if self._qmp is not None:
            with contextlib.suppress(OSError):
                self._drain()
            self._qmp.close()
            self._qmp = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(QUIT_TIMEOUT_S)
            self._process = None
            self.mark(f"power cut{': ' if why else ''}{why}")

    def execute(self, command: str, **arguments: Any) -> Any:
        """A QMP command; what it returns. Events that come before the answer are kept."""
        assert self._qmp is not None
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._qmp.settimeout(QMP_TIMEOUT_S)
        self._qmp.sendall(json.dumps(request).encode() + b"\n")
        while True:
            for message in self._messages():
                if "return" in message:
                    return message["return"]
                if "error" in message:
                    raise SlipstreamError(f"QMP {command} failed", got=message["error"])
            self._receive(command)

    def mark(self, text: str) -> None:
        """A line of the harness itself in the serial log."""
        with self.serial.open("ab") as log:
            log.write(f"\r\n=== {time.strftime('%H:%M:%S')} {text} ===\r\n".encode())

    def log_end(self) -> int:
        """How long the serial log is by now, in bytes: where a later wait begins to look."""
        return self.serial.stat().st_size if self.serial.exists() else 0

    def log_since(self, offset: int = 0) -> str:
        """The serial log from a byte offset on, without escape sequences and carriage returns."""
        with self.serial.open("rb") as log:
            log.seek(offset)
            return clean(log.read())

    def wait_for(
        self, pattern: str, deadline_s: float, *, since: int = 0, unless: str | None = None
    ) -> re.Match[str]:
        """The first match in the serial log from `since` on. Raises TimedOut.

        Does not wait any longer once `unless` matches and the pattern does not.
        """
        for _ in self.until(deadline_s, f"/{pattern}/ in the serial log"):
            text = self.log_since(since)
            found = re.search(pattern, text)
            if found is not None:
                return found
            if unless is not None and re.search(unless, text):
                tail = text[-SERIAL_TAIL_CHARS:]
                raise TimedOut(f"/{unless}/ came before /{pattern}/", where=self.serial, got=tail)
        raise AssertionError("until() raises before it ends")

    def until(self, deadline_s: float, what: str) -> Iterator[None]:
        """Comes round every POLL_S seconds while the machine runs. Raises TimedOut at the deadline."""
        end = time.monotonic() + deadline_s
        while True:
            yield
            self._check_alive(what)
            if time.monotonic() > end:
                tail = self.log_since()[-SERIAL_TAIL_CHARS:]
                raise TimedOut(f"waited {deadline_s:.0f} s for {what}", where=self.serial, got=tail)
            time.sleep(POLL_S)

    def event_names(self) -> list[str]:
        """Names of all QMP events so far, such as RESET and WATCHDOG."""
        self._drain()
        return [event["event"] for event in self.events]

    # --- QMP

    def _connect(self, path: Path) -> socket.socket:
        for _ in self.until(QMP_TIMEOUT_S, "QEMU's control socket"):
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                channel.connect(str(path))
            except OSError:
                channel.close()
                continue
            return channel
        raise AssertionError("until() raises before it ends")

    def _drain(self) -> None:
        if self._qmp is None:
            return
        self._qmp.settimeout(0.0)
        with contextlib.suppress(BlockingIOError, SlipstreamError):
            while True:
                self._receive("")
        for _ in self._messages():
            pass

    def _receive(self, command: str) -> None:
        assert self._qmp is not None
        data = self._qmp.recv(65536)
        if not data:
            raise SlipstreamError("QEMU closed its control socket", got=command)
        self._received += data

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Whole messages; events are kept, the others handed out."""
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
            else:
                yield message

    def _check_alive(self, what: str) -> None:
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            log = (self.folder / "qemu.log").read_text(errors="replace")[-SERIAL_TAIL_CHARS:]
            raise TimedOut(
                f"QEMU ended while {what} was waited for", got=f"exit code {code}: {log}"
            )


def clean(raw: bytes) -> str:
    """A serial log as text: without terminal escapes, carriage returns and NULs."""
    text = raw.decode("utf-8", "replace").replace("\r", "").replace("\0", "")
    return re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][0-9A-B]|.)", "", text)
