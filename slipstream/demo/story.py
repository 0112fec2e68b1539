"""The story: publish two releases, install, update by delta through a kill, confirm, fall back.

Every step is the slipstream command as its user would type it, run as a process of its own.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.cli.progress import megabytes
from slipstream.delta.digest import Digest
from slipstream.delta.errors import SlipstreamError
from slipstream.delta.layout import delta_path, full_path
from slipstream.delta.payload import parse_index
from slipstream.demo.images import DemoRelease, make_uki
from slipstream.demo.machine import Machine, make_machine

KILL_AT_SHARE = 0.4  # of the root file system's bytes: the middle of the stream
EXIT_NOTHING_TO_DO = 3


@dataclass(slots=True)
class Row:
    """One line of the table at the end."""

    what: str
    image_bytes: int
    payload_bytes: int
    fetched_bytes: int
    twice_bytes: int
    seconds: float
    peak_kib: int
    booted: str = ""


@dataclass(slots=True)
class Ran:
    """A command that ended: its exit code, its JSON lines, its time, its peak resident memory."""

    code: int
    lines: list[dict[str, object]]
    seconds: float
    peak_kib: int


@dataclass(slots=True)
class Story:
    """The demonstration in a folder that is emptied first."""

    folder: Path
    say: Callable[[str], None]
    url: str = ""
    rows: list[Row] = field(default_factory=list)
    server: subprocess.Popen[str] | None = None

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    def tell(self, releases: Sequence[DemoRelease]) -> None:
        """All of it. Raises SlipstreamError at the first thing that is not as it must be."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        first, second, third = releases
        try:
            self.chapter("The build machine publishes two releases")
            self.run(
                "repo", "init", str(self.repo), "--product", "gateway", "--insecure-no-passphrase"
            )
            self.publish(first, None)
            self.publish(second, first)

            self.chapter("The server offers them; a factory-new device installs release 1")
            token = self.serve()
            machine = self.make_machine(releases, token)
            self.install(machine, first, "install 1, full")
            self.boots(
                machine, first, "The boot loader finds one entry, counts a try, and starts it"
            )
            self.confirm(machine)

            self.chapter("The device updates to release 2 by delta, and is killed on the way")
            self.run("device", "plan", *self.config(machine), "--release", second.version)
            self.install(machine, second, "update 1 -> 2, delta, killed once", kill=True)
            self.boots(
                machine, second, "The new entry sorts first: the device boots into the trial"
            )
            self.confirm(machine)

            self.chapter("Release 3 is broken: the device falls back to release 2 and says why")
            self.publish(third, second)
            self.install(machine, third, "update 2 -> 3, delta, falls back")
            self.boots(machine, third, "The device boots into the trial of release 3")
            self.fails_health(machine)
            self.boots(machine, second, "Release 3 is condemned: the boot loader starts release 2")
            self.reports_fall_back(machine)

            self.chapter("What it took")
            self.say(self.table())
        finally:
            self.stop()

    # --- the steps

    def publish(self, release: DemoRelease, source: DemoRelease | None) -> None:
        """Publish a release, with a delta from `source`."""
        uki = self.folder / f"uki-{release.version}.efi"
        make_uki(release.kernel, uki, version=release.version, cmdline=self.cmdline(release))
        delta = () if source is None else ("--delta-from", source.version)
        self.run(
            "repo", "publish", str(self.repo), "--version", release.version,
            "--image", f"rootfs={release.image}", "--image", f"uki={uki}", *delta,
        )  # fmt: skip

    def cmdline(self, release: DemoRelease) -> str:
        """The kernel command line that goes into the UKI: it pins the root file system's tree."""
        asked = self.run("repo", "root-hash", str(self.repo), str(release.image), "--json")
        return f"roothash={asked.lines[0]['root']} gpt panic=10 quiet"

    def serve(self) -> str:
        """Start the server and register the device. Returns the device's token."""
        words = [*self.command("serve", str(self.repo), "--listen", "127.0.0.1:0")]
        self.say("$ " + " ".join(["slipstream", *words[3:]]))
        log = (self.folder / "server.log").open("w")
        self.server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        match = re.search(r"http://\S+", line)
        if match is None:
            raise SlipstreamError(
                "the server did not start", where=self.folder / "server.log", got=repr(line)
            )
        self.url = match[0].rstrip("/")
        self.say(f"  {line.strip()}")
        operator = (self.repo / "server/operator.token").read_text().strip()
        answer = self.post("/v1/devices", operator, {"id": "edge-1", "product": "gateway"})
        token = answer["token"]
        assert isinstance(token, str)
        return token

    def make_machine(self, releases: Sequence[DemoRelease], token: str) -> Machine:
        """A device with room for the largest image."""
        folder = self.folder / "device"
        folder.mkdir()
        return make_machine(
            folder,
            url=self.url,
            root=self.repo / "public/metadata/1.root.json",
            token=token,
            image_bytes=max(release.image.stat().st_size for release in releases),
        )

    def install(
        self, machine: Machine, release: DemoRelease, what: str, *, kill: bool = False
    ) -> None:
        """Install a release; with `kill`, SIGKILL the installer once and start it again."""
        words = ("device", "install", *self.config(machine), "--release", release.version, "--json")
        planned = self.run(
            "device",
            "plan",
            *self.config(machine),
            "--release",
            release.version,
            "--json",
            show=False,
        )
        fetched, seconds, peak = 0, 0.0, 0
        if kill:
            killed = self.run(*words, kill_at=KILL_AT_SHARE)
            fetched = max(_int(event, "fetched_bytes") for event in killed.lines)
            self.say(
                f"  killed with SIGKILL after {killed.seconds:.1f} s and {megabytes(fetched)}; status says:"
            )
            self.run("device", "status", *self.config(machine))
            seconds, peak = killed.seconds, killed.peak_kib
        done = self.run(*words)
        result = done.lines[-1]
        fetched += _int(result, "bytes_fetched")
        self.say(
            f"  fetched {megabytes(_int(result, 'bytes_fetched'))}; "
            f"wrote {megabytes(_int(result, 'bytes_written'))} "
            f"of {megabytes(_int(result, 'image_bytes'))}; "
            f"{_int(result, 'chunks_standing')} of {_int(result, 'chunks')} chunks stood already"
        )
        frames = self.frame_bytes(release, planned.lines[-1])
        self.rows.append(
            Row(
                what,
                image_bytes=_int(result, "image_bytes"),
                payload_bytes=_int(planned.lines[-1], "fetch_bytes_max"),
                fetched_bytes=fetched,
                twice_bytes=max(0, fetched - frames),
                seconds=seconds + done.seconds,
                peak_kib=max(peak, done.peak_kib),
            )
        )

    def frame_bytes(self, release: DemoRelease, plan: dict[str, object]) -> int:
        """Bytes of all frames of the planned payloads: what an install without a kill may fetch."""
        images = plan["images"]
        assert isinstance(images, list)
        total = 0
        for image in images:
            root = image["source_root"]
            path = (
                full_path(release.version, image["name"])
                if root is None
                else delta_path(release.version, image["name"], Digest.parse_hex(root))
            )
            folder, _, name = path.rpartition("/")
            (index,) = (self.repo / "public/targets" / folder).glob(f"*.{name}")
            total += parse_index(index.read_bytes()).body_size
        return total

    def boots(self, machine: Machine, release: DemoRelease, text: str) -> None:
        """Boot, and check that it is the release that it must be."""
        name = machine.boot()
        self.say(f"\n{text}: {name}")
        if int(name[:4]) != release.counter:
            raise SlipstreamError("the wrong release boots", expected=release.counter, got=name)
        if self.rows:
            row = self.rows[-1]
            row.booted += ("" if not row.booted else ", then ") + release.version

    def confirm(self, machine: Machine) -> None:
        """Run the health checks; all pass, so the trial ends."""
        self.run("device", "confirm", *self.config(machine))
        self.run("device", "status", *self.config(machine))

    def fails_health(self, machine: Machine) -> None:
        """Run the health checks of the broken release: they fail, and the entry is condemned."""
        ran = self.run("device", "confirm", *self.config(machine), expect=None)
        if ran.code == 0:
            raise SlipstreamError("the broken release was confirmed")

    def reports_fall_back(self, machine: Machine) -> None:
        """Back in release 2: record, report, and do not take release 3 again."""
        self.run("device", "confirm", *self.config(machine), expect=None)
        self.run("device", "status", *self.config(machine))
        self.run("device", "check", *self.config(machine), expect=EXIT_NOTHING_TO_DO)
        operator = (self.repo / "server/operator.token").read_text().strip()
        request = urllib.request.Request(
            self.url + "/v1/devices", headers={"Authorization": f"Bearer {operator}"}
        )
        with urllib.request.urlopen(request) as answer:
            self.say("\nThe server knows:\n" + json.dumps(json.load(answer), indent=2))

    # --- the means

    def config(self, machine: Machine) -> tuple[str, str]:
        return "--config", str(machine.config)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "slipstream", *words]

    def run(
        self, *words: str, show: bool = True, expect: int | None = 0, kill_at: float | None = None
    ) -> Ran:
        """Run a slipstream command; show it and what it says; check its exit code."""
        as_json = "--json" in words
        if show:
            self.say("\n$ slipstream " + " ".join(words))
        began = time.monotonic()
        process = subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not show else None,
            text=True,
        )
        assert process.stdout is not None
        lines: list[dict[str, object]] = []
        for line in process.stdout:
            if not as_json:
                self.say("  " + line.rstrip())
                continue
            lines.append(json.loads(line))
            if kill_at is not None and _reached(lines[-1], kill_at):
                process.send_signal(signal.SIGKILL)
                kill_at = None
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        killed = code == -signal.SIGKILL
        if not killed and expect is not None and code != expect:
            raise SlipstreamError(
                f"slipstream {' '.join(words)} ended with {code}", expected=expect
            )
        return Ran(code, lines, time.monotonic() - began, usage.ru_maxrss)

    def post(self, path: str, token: str, body: dict[str, str]) -> dict[str, object]:
        """POST a JSON object to the server."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        assert isinstance(found, dict)
        return found

    def stop(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            assert self.server.stdout is not None
            self.server.stdout.close()

    def chapter(self, text: str) -> None:
        self.say(f"\n=== {text}")

    def table(self) -> str:
        """The rows, for people."""
        head = ("", "images", "payloads", "fetched", "twice", "seconds", "peak memory", "booted")
        rows = [
            (
                row.what,
                megabytes(row.image_bytes),
                megabytes(row.payload_bytes),
                megabytes(row.fetched_bytes),
                megabytes(row.twice_bytes),
                f"{row.seconds:.1f}",
                f"{row.peak_kib / 1024:.0f} MiB",
                row.booted,
            )
            for row in self.rows
        ]
        widths = [max(len(line[n]) for line in (head, *rows)) for n in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if n == 0 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in (head, *rows)
        )


def _reached(event: dict[str, object], share: float) -> bool:
    """Whether a progress event of the root file system says that `share` of it is written."""
    done, total = event.get("done_bytes"), event.get("total_bytes")
    return (
        event.get("stage") == "write"
        and event.get("image") == "rootfs"
        and isinstance(done, int)
        and isinstance(total, int)
        and total > 0
        and done >= share * total
    )


def _int(found: dict[str, object], key: str) -> int:
    value = found[key]
    assert isinstance(value, int)
    return value
