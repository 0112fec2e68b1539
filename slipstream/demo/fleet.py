"""A fleet of one device, from the other end of the link: its repository and its server.

Each method is one thing that a publisher or an operator does, said and checked.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from slipstream.delta.digest import Digest
from slipstream.delta.layout import delta_path, full_path
from slipstream.delta.payload import parse_index
from slipstream.demo.commands import run_slipstream
from slipstream.demo.machine import Machine, make_machine
from slipstream.demo.releases import DemoRelease
from slipstream.demo.server import Server, serve_words, start_server


@dataclass(slots=True)
class Fleet:
    """Repository, server and device below `folder`. As a context manager it ends the server."""

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
        answer = server.ask("/v1/devices", {"id": "edge-1", "product": "gateway"})
        return make_machine(
            self.folder / "device",
            url=server.url,
            root=self.repo / "public/metadata/1.root.json",
            token=answer["token"],
            image_bytes=image_bytes,
        )

    def show_devices(self) -> None:
        """Say what the server knows of its devices."""
        assert self._server is not None
        devices = self._server.ask("/v1/devices")
        self.say("\nThe server knows:\n" + json.dumps(devices, indent=2))

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
