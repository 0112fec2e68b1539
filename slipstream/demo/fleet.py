"""The fleet from the other end of the link: its repository, its server, its rollouts.

Each method is one thing that a publisher or an operator does, said and checked.
"""

import contextlib
import csv
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from slipstream.delta.digest import Digest
from slipstream.delta.errors import SlipstreamError
from slipstream.delta.layout import delta_path, full_path, manifest_path
from slipstream.delta.manifest import parse_manifest
from slipstream.delta.payload import parse_index
from slipstream.demo.commands import Ran, run_slipstream
from slipstream.demo.machine import Machine, make_machine
from slipstream.demo.neighbours import PRODUCT, Neighbour, Running
from slipstream.demo.releases import DemoRelease
from slipstream.demo.server import Server, serve_words, start_server

_NAME = "slipstream"
SERVED_AT = "http://127.0.0.1:8480"  # where `slipstream serve` listens by itself
ROLLOUT = 1  # the number of the first one
CANARY = "canary"
MOVE_S = 30.0  # for the server's next look at a rollout: it takes a second


@dataclass(slots=True)
class Fleet:
    """Repository, server and devices below `folder`. As a context manager it ends the server."""

    folder: Path
    say: Callable[[str], None]
    _server: Server | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stop()

    @property
    def repo(self) -> Path:
        """The repository's folder."""
        return self.folder / "repo"

    def make_repo(self) -> None:
        """Make the repository."""
        words = ("repo", "init", str(self.repo), "--product", "gateway", "--insecure-no-passphrase")
        run_slipstream(*words, say=self.say)

    def publish(self, release: DemoRelease, source: DemoRelease | None = None) -> None:
        """Publish a release, with a delta from `source`. Its UKI pins the root file system's tree."""
        uki = self.folder / f"uki-{release.version}.efi"
        os_release = self.folder / "os-release"
        os_release.write_text(f'ID=gateway\nPRETTY_NAME="Gateway {release.version}"\n')
        rootfs = ("--image", f"rootfs={release.image}")
        made_of = ("--linux", str(release.kernel), "--os-release", str(os_release))
        asked = ("--version", release.version, "--cmdline", "quiet", "-o", str(uki))
        run_slipstream("repo", "uki", str(self.repo), *rootfs, *made_of, *asked, say=self.say)
        images = (*rootfs, "--image", f"uki={uki}")
        delta = () if source is None else ("--delta-from", source.version)
        words = ("repo", "publish", str(self.repo), "--version", release.version, *images, *delta)
        run_slipstream(*words, say=self.say)

    def start(self, image_bytes: int) -> Machine:
        """Start the server and register the device; returns it, with slots for such images."""
        self.say("\n$ slipstream " + " ".join(serve_words(self.repo)))
        server = start_server(self.repo, log=self.folder / "server.log")
        self._server = server
        self.say(f"  {server.says}")
        added = self._operate("device-admin", "add", "edge-1", "--product", PRODUCT, "--json")
        return make_machine(
            self.folder / "device",
            url=server.url,
            root=self.repo / "public/metadata/1.root.json",
            token=str(added.lines[0]["token"]),
            image_bytes=image_bytes,
        )

    @property
    def server(self) -> Server:
        """The one that was started."""
        assert self._server is not None
        return self._server

    def add_neighbours(self, canaries: int, others: int) -> list[Neighbour]:
        """Register simulated devices, the canaries among them first."""
        names = [f"unit-{number}" for number in range(1, canaries + others + 1)]
        tags = [CANARY] * canaries + [""] * others
        listed, tokens = self.folder / "neighbours.csv", self.folder / "tokens.csv"
        with listed.open("w", newline="") as file:
            rows = [(name, PRODUCT, tag) for name, tag in zip(names, tags, strict=True)]
            csv.writer(file).writerows([("id", "product", "tags"), *rows])
        self._operate("device-admin", "import", str(listed), "-o", str(tokens))
        with tokens.open(newline="") as file:
            made = {row["id"]: row["token"] for row in csv.DictReader(file)}
        return [Neighbour(name, made[name], self.server.url) for name in names]

    def roll_out(self, release: DemoRelease) -> None:
        """To the canaries, then to all; three of four have to confirm it."""
        phases = ("--phase", f"tag=={CANARY}", "--phase", "100%", "--success", "75%")
        words = ("--name", f"release-{release.version}", "--release", release.version)
        self._operate("rollout", "create", *words, *phases)

    def await_phase(self, number: int) -> None:
        """Until that phase, counted from 1, is open."""
        self._await(f"phase {number} open", lambda found: found["phase"] >= number)

    def await_end(self) -> None:
        """Until the rollout has come to its end."""
        self._await("an end", lambda found: found["status"] == "finished")

    def show_rollout(self) -> None:
        """Say how it stands."""
        self._operate("rollout", "show", str(ROLLOUT))

    def show_devices(self) -> None:
        """Say what the server knows of its devices."""
        self._operate("device-admin", "list")

    def show_page(self, serve_s: float) -> None:
        """Say where the rollout is to be seen; the server goes on for so many seconds, or until Ctrl-C.
        The address is the last word."""
        url, where = self.server.url, f"password: the line in {self.server.token_file}; any name"
        if serve_s <= 0:
            self.server.stop()
            command = f"{this_command()} serve {self.repo}"
            self.say(f"\nThe rollout's page, once this runs: {command}\n({where})")
            self.say(f"{SERVED_AT}/rollouts/{ROLLOUT}")
            return
        self.say(f"\nThe rollout's page, for {serve_s:g} s or until Ctrl-C ({where}):")
        self.say(f"{url}/rollouts/{ROLLOUT}")
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(serve_s)

    def running(self, release: DemoRelease) -> Running:
        """What a device that runs the release says of itself."""
        folder, _, name = manifest_path(release.version).rpartition("/")
        (path,) = (self.repo / "public/targets" / folder).glob(f"*.{name}")
        images = parse_manifest(path.read_bytes()).images
        (root,) = [one.tree.root.hex for one in images if one.name == "rootfs"]
        return Running(release.version, release.counter, root)

    def _operate(self, *words: str) -> Ran:
        token = ("--token-file", str(self.server.token_file))
        return run_slipstream(*words, "--server", self.server.url, *token, say=self.say)

    def _await(self, what: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
        end = time.monotonic() + MOVE_S
        while not is_so(found := self.server.ask(f"/api/v1/rollouts/{ROLLOUT}")):
            if time.monotonic() > end:
                raise SlipstreamError(
                    "the rollout does not move on",
                    where=f"rollout {ROLLOUT}",
                    expected=what,
                    got=f"{found['status']}, phase {found['phase']}: {found['reason']}",
                )
            time.sleep(0.2)

    def frame_bytes(self, release: str, image: str, source_root: str | None) -> int:
        """Bytes of all frames of a payload: what an install that is not killed fetches at most.

        `source_root` is the root of a delta's source in hex; None for the full payload.
        """
        path = (
            full_path(release, image)
            if source_root is None
            else delta_path(release, image, Digest.parse_hex(source_root))
        )
        folder, _, name = path.rpartition("/")
        (index,) = (self.repo / "public/targets" / folder).glob(f"*.{name}")
        return parse_index(index.read_bytes()).body_size


def this_command() -> str:
    """The command as it can be typed: in a virtual environment that nobody activated, with its path."""
    if shutil.which(_NAME) is not None:
        return _NAME
    beside = Path(sys.executable).with_name(_NAME)
    return str(beside) if beside.exists() else f"{sys.executable} -m {_NAME}"
