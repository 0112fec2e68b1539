"""The main job through the command line: real processes, real HTTP, small images.

Boots are the simulated boot chooser's. The images are 6 MiB each; release 2 moves and changes
parts of release 1, release 3 fails its health check.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.tree import tree_of
from slipstream.installer.boot.chooser import boot
from tests.web_servers import nginx_server, python_server

MIB = 1 << 20
SLOT_BYTES = 8 * MIB
COMMAND = [sys.executable, "-m", "slipstream"]


def slipstream(*words: str | Path, expect: int = 0) -> str:
    """Run the command; returns standard output."""
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def make_images(folder: Path) -> list[Path]:
    chance = random.Random(7)
    first = bytearray(chance.randbytes(5 * MIB) + bytes(MIB))
    second = bytearray(first)
    second[2 * MIB : 3 * MIB] = first[MIB : 2 * MIB]
    for _ in range(200):
        second[chance.randrange(len(second))] ^= 0x55
    second[100_000:100_000] = b"inserted" * 512
    del second[6 * MIB :]
    third = bytearray(second)
    third[4 * MIB : 4 * MIB + 10] = b"unhealthy!"
    paths = []
    for number, image in enumerate((first, second, third), 1):
        paths.append(folder / f"{number}.img")
        paths[-1].write_bytes(image)
    return paths


@dataclass
class Lab:
    """A repository with releases 1 and 2, a device folder, and what serves it."""

    folder: Path
    images: list[Path]
    url: str = ""

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @property
    def config(self) -> Path:
        return self.folder / "device" / "device.toml"

    def publish(self, version: int, delta_from: str | None = None) -> None:
        kernel = self.folder / f"vmlinuz-{version}"
        kernel.write_bytes(b"MZ kernel %d" % version * 500)
        words = ["--image", f"rootfs={self.images[version - 1]}", "--image", f"linux={kernel}"]
        if delta_from:
            words += ["--delta-from", delta_from]
        options = "roothash={rootfs.root} quiet"
        slipstream(
            "repo", "publish", self.repo, "--version", str(version), "--options", options, *words
        )

    def make_device(self, token: str | None) -> None:
        folder = self.folder / "device"
        for name in ("esp/EFI/Linux", "esp/loader/entries", "state", "run"):
            (folder / name).mkdir(parents=True)
        (folder / "run/cmdline").touch()
        for name in "ab":
            with (folder / f"{name}.img").open("wb") as file:
                file.truncate(SLOT_BYTES)
        (folder / "root.json").write_bytes((self.repo / "public/metadata/1.root.json").read_bytes())
        token_line = ""
        if token is not None:
            (folder / "token").write_text(token)
            (folder / "token").chmod(0o600)
            token_line = 'token_file = "token"\n'
        # The health check looks into the booted slot for what release 3 has wrong with it.
        check = "import sys; from pathlib import Path; slot = Path('run/slot').read_text(); "
        check += "sys.exit(b'unhealthy!' in Path(slot + '.img').read_bytes() and 'the application is unhealthy')"
        command = json.dumps(
            [sys.executable, "-c", f"import os; os.chdir({str(folder)!r}); {check}"]
        )
        self.config.write_text(
            f'[device]\nid = "edge-1"\nproduct = "gateway"\nhardware = "any"\nstate = "state"\n'
            f'[server]\nurl = "{self.url}"\nroot = "root.json"\n{token_line}'
            f'[slots.a]\nrootfs = "a.img"\n[slots.b]\nrootfs = "b.img"\n'
            f'[boot]\nesp = "esp"\ncmdline = "run/cmdline"\nentry = "run/entry"\nreboot = ["true"]\n'
            f'[release]\nfile = "run/release.json"\n[install]\nverity = "append"\n'
            f'[[health]]\nname = "application"\ncommand = {command}\n'
        )

    def device(self, *words: str, expect: int = 0) -> str:
        return slipstream("device", *words, "--config", self.config, expect=expect)

    def boot(self) -> str:
        folder = self.folder / "device"
        choice = boot(folder / "esp")
        assert choice is not None
        assert choice.loadable
        slot = re.match(r"\d+([a-z])", choice.path.name)
        assert slot is not None
        (folder / "run/cmdline").write_text(choice.cmdline)
        (folder / "run/entry").write_text(choice.entry.id)
        (folder / "run/slot").write_text(slot[1])
        # What boots is whole: the slot gives the root that the kernel would enforce.
        salt = bytes.fromhex(json.loads((self.repo / "repo.json").read_text())["salt"])
        with (folder / f"{slot[1]}.img").open("rb") as image:
            tree = tree_of([image.read(6 * MIB)], salt)
        assert f"roothash={tree.tuple.root.hex}" in choice.cmdline
        return choice.path.name

    def status(self) -> dict[str, object]:
        found = json.loads(self.device("status", "--json"))
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    lab = Lab(folder, make_images(folder))
    slipstream("repo", "init", lab.repo, "--product", "gateway", "--insecure-no-passphrase")
    lab.publish(1)
    lab.publish(2, "1")
    return lab


@pytest.fixture
def lab(published: Lab, tmp_path: Path) -> Lab:
    """A copy of the repository: tests publish into it."""
    subprocess.run(["cp", "-a", f"{published.folder}/.", tmp_path], check=True)
    return Lab(tmp_path, [tmp_path / path.name for path in published.images])


@pytest.fixture
def served(lab: Lab) -> Iterator[Lab]:
    """The lab behind `slipstream serve`, with a registered device."""
    server = subprocess.Popen(
        [*COMMAND, "serve", str(lab.repo), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        match = re.search(r"http://\S+", server.stdout.readline())
        assert match is not None
        lab.url = match[0].rstrip("/")
        operator = (lab.repo / "server/operator.token").read_text().strip()
        answer = ask(lab, "/api/v1/devices", operator, {"id": "edge-1", "product": "gateway"})
        lab.make_device(str(answer["token"]))
        yield lab
    finally:
        server.terminate()
        server.stdout.close()
        assert server.wait(30) == 0


def ask(lab: Lab, path: str, token: str, body: dict[str, str] | None = None) -> dict[str, object]:
    request = urllib.request.Request(
        lab.url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


@pytest.fixture(params=[python_server, nginx_server], ids=["http.server", "nginx"])
def any_server(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab behind a web server that knows nothing of us; no token, no poll."""
    with request.param(lab.repo / "public") as lab.url:
        lab.make_device(None)
        yield lab


@pytest.fixture
def static(lab: Lab) -> Iterator[Lab]:
    """The lab behind python -m http.server, which knows no ranges."""
    with python_server(lab.repo / "public") as lab.url:
        lab.make_device(None)
        yield lab


def test_install_update_kill_resume_confirm_and_fall_back(served: Lab) -> None:
    served.device("install", "--release", "1")
    assert served.boot() == "0001a+2-1.conf"
    served.device("confirm")
    assert served.boot() == "0001a.conf"

    plan = json.loads(served.device("plan", "--json"))
    assert plan["release"] == "2"
    assert {image["name"]: image["payload"] for image in plan["images"]} == {
        "rootfs": "delta",
        "linux": "full",
    }
    killed = subprocess.Popen(
        [*COMMAND, "device", "install", "--json", "--config", str(served.config)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert killed.stdout is not None
    for line in killed.stdout:
        event = json.loads(line)
        if (
            event["stage"] == "write"
            and event["image"] == "rootfs"
            and event["done_bytes"] > 2 * MIB
        ):
            killed.send_signal(signal.SIGKILL)
            break
    killed.stdout.close()
    assert killed.wait() == -signal.SIGKILL
    assert served.boot() == "0001a.conf"
    assert served.status()["state"] == "streaming"

    result = json.loads(served.device("install", "--json").splitlines()[-1])
    assert result["stage"] == "result"
    assert result["chunks_standing"] >= 4
    assert served.boot() == "0002b+2-1.conf"
    assert served.status()["trial"] is True
    served.device("install", expect=3)  # settles the trial first; then nothing newer is there
    assert served.boot() == "0002b.conf"

    served.publish(3, "2")
    served.device("check")
    served.device("install")
    assert served.boot() == "0003a+2-1.conf"
    served.device("confirm", expect=1)
    assert served.boot() == "0002b.conf"
    served.device("confirm", expect=1)
    status = served.status()
    assert isinstance(status["failed"], list)
    assert [one["release"] for one in status["failed"]] == ["3"]
    assert "unhealthy" in status["failed"][0]["reason"]
    served.device("check", expect=3)
    served.device("install", "--release", "3", expect=4)

    operator = (served.repo / "server/operator.token").read_text().strip()
    shown: Any = ask(served, "/api/v1/devices/edge-1", operator)
    assert shown["device"]["release"] == "2"
    assert shown["reports"][0]["kind"] == "fell_back"
    assert "unhealthy" in shown["reports"][0]["reason"]


def test_a_static_folder_updates_a_device(any_server: Lab) -> None:
    any_server.device("install", "--release", "1")
    any_server.boot()
    any_server.device("confirm")

    any_server.device("install")

    assert any_server.boot() == "0002b+2-1.conf"
    any_server.device("confirm")
    any_server.device("check", expect=3)


def test_the_installed_hash_tree_is_what_veritysetup_accepts(static: Lab) -> None:
    static.device("install", "--release", "2")
    static.boot()
    cmdline = (static.config.parent / "run/cmdline").read_text()
    root = cmdline.split("roothash=")[1].split()[0]
    slot = static.config.parent / "a.img"

    done = subprocess.run(
        ["/usr/sbin/veritysetup", "verify", slot, slot, root, f"--hash-offset={6 * MIB}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    spoilt = bytearray(slot.read_bytes())
    spoilt[3 * MIB] ^= 1
    slot.write_bytes(spoilt)
    again = subprocess.run(
        ["/usr/sbin/veritysetup", "verify", slot, slot, root, f"--hash-offset={6 * MIB}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode != 0


@pytest.mark.parametrize(
    "name, exit_code, words",
    [
        ("metadata", 4, "signature"),
        ("manifest", 4, "not what"),
        ("payload", 4, "frame"),
    ],
)
def test_tampered_bytes_are_rejected_and_nothing_is_written(
    static: Lab, name: str, exit_code: int, words: str
) -> None:
    public = static.repo / "public"
    if name == "metadata":
        path = public / "metadata/timestamp.json"
        path.write_bytes(path.read_bytes().replace(b'"version":', b'"version": '))
        path.write_bytes(re.sub(rb'"version": \d+', b'"version":99', path.read_bytes(), count=2))
    elif name == "manifest":
        (path,) = (public / "targets/releases/2").glob("*.manifest.json")
        path.write_bytes(path.read_bytes().replace(b'"counter":2', b'"counter":3'))
    else:
        for path in (public / "blobs").glob("*.payload"):
            raw = bytearray(path.read_bytes())
            raw[-1] ^= 1
            path.write_bytes(raw)
    before = (static.config.parent / "a.img").read_bytes()

    done = subprocess.run(
        [*COMMAND, "device", "install", "--release", "2", "--config", str(static.config)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr.lower()
    assert "Traceback" not in done.stderr
    if name != "payload":
        assert (static.config.parent / "a.img").read_bytes() == before
    assert os.listdir(static.config.parent / "esp/loader/entries") == []
