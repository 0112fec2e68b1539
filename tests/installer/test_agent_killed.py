"""`slipstream device run` as a real process, killed with SIGKILL and stopped with SIGTERM at many
moments of its whole story, against a real server on loopback.

The story: install, reboot, health, confirm. Whatever happens, the boot loader then starts a release
that stands whole in its slot; the process, started again, goes on; and the story comes to its end.
A parent with everything loaded forks each process, so that a run costs little more than its work.
Every operation of an install, one after the other, is the matter of test_install_faults.py.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.tree import tree_of
from slipstream.installer.boot import chooser
from slipstream.installer.ports import EntryState
from slipstream.installer.states import Committed, Idle, Outcome
from tests.installer import lab as lab_module
from tests.installer.lab import SALT, Lab, change, make_image

IMAGE = make_image(1, 3 * CHUNK_BYTES + 5000)
LIMIT_S = 20.0
KILLS = 12  # in one story, later and later; SLIPSTREAM_KILLS for more
PARENT = """
import os, signal, sys
from slipstream.cli import main
from slipstream.installer.install import install
from slipstream.installer.image import ImageInstall
for line in sys.stdin:
    child = os.fork()
    if not child:
        signal.alarm(30)  # nothing of a test hangs
        log = os.open(line.split()[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        main(["device", "run", "--config", line.split()[0]])
    print(child, flush=True)
    if sys.stdin.readline():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Handler(BaseHTTPRequestHandler):
    """The lab's repository, and a front door that offers its newest release."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files: dict[str, bytes], reports: list[str], *rest: object) -> None:
        self.files, self.reports = files, reports
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        data = self.files.get(self.path.lstrip("/"))
        if data is None:
            self._answer(404, b"")
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not found:
            self._answer(200, data)
            return
        first, last = int(found[1]), min(int(found[2]), len(data) - 1)
        place = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._answer(206, data[first : last + 1], place)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/poll":
            offer = {"action": "install", "release": "2.0", "counter": 2}
            self._answer(
                200, json.dumps(offer if body["counter"] != 2 else {"action": "none"}).encode()
            )
            return
        self.reports.append(body["kind"])
        self._answer(200, b'{"accepted": true}')

    def _answer(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed."""


class Story:
    """A device that runs 1.0, with 2.0 on offer, and the process that shall bring it there."""

    def __init__(self, lab: Lab, parent: "subprocess.Popen[str]") -> None:
        self.lab, self.parent = lab, parent
        self.log = lab.folder / "log"

    def start(self) -> int:
        return int(self._ask(f"{self.lab.config_path} {self.log}"))

    def wait(self) -> int:
        """The exit code, negative for a signal."""
        return int(self._ask("wait"))

    def _ask(self, line: str) -> str:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(line + "\n")
        self.parent.stdin.flush()
        return self.parent.stdout.readline()

    def run(self, number: int, after_s: float) -> int:
        """Run the agent for so long, then send it a signal; its exit code."""
        pid = self.start()
        time.sleep(after_s)
        os.kill(pid, number)
        return self.wait()

    def run_until(self, words: str) -> None:
        """Run the agent until it says something; stop it then."""
        pid, end = self.start(), time.monotonic() + LIMIT_S
        while words not in self.said():
            assert time.monotonic() < end, self.said()
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)
        assert self.wait() == 0, self.said()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def boot(self) -> str:
        """Restart: the release that the boot loader starts, which must stand whole in its slot."""
        choice = chooser.boot(self.lab.folder / "esp")
        assert choice is not None
        assert choice.loadable
        (self.lab.folder / "cmdline").write_text(choice.cmdline)
        (self.lab.folder / "selected").write_text(choice.entry.id)
        for name, release in self.lab.releases.items():
            image = release.images["rootfs"]
            if image.tree.tuple.root.hex in choice.cmdline:
                slot = self.lab.slot(choice.entry.id[4]).read_bytes()[: len(image.data)]
                assert tree_of([slot], SALT).tuple.root == image.tree.tuple.root
                return name
        raise AssertionError(choice.cmdline)


@pytest.fixture(scope="module")
def parent() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def story(
    tmp_path: Path,
    parent: "subprocess.Popen[str]",
    reports: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Story]:
    # The process has the real clock: what is signed must be valid by it.
    monkeypatch.setattr(lab_module, "START", datetime.now(UTC).replace(microsecond=0))
    folder = tmp_path / "device"
    lab = Lab(
        folder,
        real_boot=True,
        static=True,
        settings='\n[[health]]\nname = "app"\ncommand = ["true"]\n',
    )
    lab.publish("1.0", 1, IMAGE)
    server = Server(("127.0.0.1", 0), partial(Handler, lab.files, reports))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    text = lab.config_path.read_text().replace("127.0.0.1:1/", f"127.0.0.1:{server.server_port}/")
    text = text.replace('root = "root.json"', 'root = "root.json"\ntoken_file = "token"')
    text = text.replace(
        'entry = "selected"', 'entry = "selected"\ncounting = "trusted"\nreboot = ["true"]'
    )
    lab.config_path.write_text(text)
    (folder / "token").write_text("secret")
    (folder / "token").chmod(0o600)
    try:
        yield Story(lab, parent)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bring_to_1(story: Story) -> None:
    asyncio.run(story.lab.install("1.0"))
    assert story.boot() == "1.0"
    story.lab.device().boot.confirm("a", 1)
    (story.lab.folder / "state/tx.json").unlink()
    story.lab.publish("2.0", 2, change(IMAGE, 700_000, 1_048_000), source=IMAGE)


def test_killed_at_many_moments_it_comes_to_its_end(story: Story, reports: list[str]) -> None:
    bring_to_1(story)
    count = int(os.environ.get("SLIPSTREAM_KILLS", KILLS))
    kills, boots = 0, []
    for number in range(count):
        # Its start-up back-off would outlast the test: deaths are test_attempts.py's matter.
        (story.lab.folder / "state/starts.json").unlink(missing_ok=True)
        (story.lab.folder / "state/attempts.json").unlink(missing_ok=True)
        code = story.run(signal.SIGKILL, 0.004 + 0.5 * number / count)
        kills += code == -signal.SIGKILL
        if isinstance(story.lab.device().journal.state, Committed) or number % 3 == 2:
            boots.append(story.boot())
    assert kills == count
    (story.lab.folder / "state/starts.json").unlink(missing_ok=True)
    device = story.lab.device()
    if "2.0" not in boots and not isinstance(device.journal.state, Committed):
        story.run_until("rebooting")
    if [one.state for one in device.boot.entries() if one.counter == 2] != [EntryState.GOOD]:
        assert story.boot() == "2.0"
    story.run_until("the server offers nothing")
    state = story.lab.device().journal.state
    assert isinstance(state, Idle)
    assert state.last is not None
    assert (state.last.outcome, state.last.transaction.release) == (Outcome.CONFIRMED, "2.0")
    assert story.boot() == "2.0"
    assert sorted(set(reports)) == ["confirmed", "installed"]


@pytest.mark.parametrize("words", ["reading signed metadata", "retiring what slot b boots"])
def test_stopped_in_an_install_it_ends_in_time_and_can_go_on(story: Story, words: str) -> None:
    bring_to_1(story)
    before = time.monotonic()
    story.run_until(words)
    assert time.monotonic() - before < LIMIT_S / 2
    assert "stopping" in story.said()
    assert not (story.lab.folder / "state/starts.json").exists()
    story.run_until("rebooting")
    assert story.boot() == "2.0"
