"""A server process for the simulated fleet: a repository, a database full of devices, `slipstream serve`.

Devices are written straight into the database: registering them is not what is measured. They have
polled before, as a fleet at rest has; every fourth speaks hawkBit's DDI.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from benches.poll_load import get_bytes, poll_bytes
from slipstream.server.rollout.plan import Plan
from slipstream.server.rollout.record import Status
from slipstream.server.store import devices, polls, rollouts
from slipstream.server.store.database import Database, parse_url
from slipstream.server.store.devices import Newcomer
from slipstream.server.store.polls import Seen
from slipstream.server.store.tables import controllers
from slipstream.server.tokens import hash_token
from tests.server.repositories import make_repo

RELEASES = {"1.0": 1, "2.0": 2}
BLOB_BYTES = 64 << 20
SLOTS = [{"name": "a", "release": "1.0", "state": "good"}, {"name": "b"}]
_STATEMENTS = re.compile(r"^slipstream_database_statements_total (\S+)$", re.MULTILINE)
_ROWS_AT_ONCE = 5000
_REGISTERED = 1_700_000_000  # seconds since 1970


@dataclass(frozen=True)
class Server:
    """A running server process."""

    process: "subprocess.Popen[bytes]"
    port: int
    database_url: str
    blob: str  # its path on the server

    def processor_s(self) -> float:
        """Seconds of processor it took so far, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waited_s(self) -> float:
        """Seconds that its event loop was ready to run and had no processor: others had them."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def resident_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1000

    def statements(self) -> int:
        """How many statements it has sent to its database."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            found = _STATEMENTS.search(answer.read().decode())
        assert found is not None
        return int(float(found[1]))


@contextmanager
def serving(repo: Path, blob: str, database_url: str) -> Iterator[Server]:
    """`slipstream serve` over a repository and a database, until the end of the block."""
    port = _free_port()
    options = ["--listen", f"127.0.0.1:{port}", "--database", database_url, "--open-metrics"]
    # One address is the whole fleet, and polls of one device come back to back: still counted.
    options += ["--address-rate", "1000000", "--device-rate", "1000000"]
    slipstream = Path(sys.executable).with_name("slipstream")
    log = repo.parent / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [slipstream, "serve", repo, *options], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_for(port, process, log)
            yield Server(process, port, database_url, blob)
        finally:
            process.terminate()
            process.wait()


def make_repository(folder: Path) -> str:
    """`folder`/repo with two releases, each an image and an artifact, and a blob: the blob's path.

    Their metadata are not signed anew: the server reads them, and devices verify.
    """
    public = make_repo(folder).public
    targets = {}
    (public / "blobs").mkdir(exist_ok=True)
    swu = b"an artifact"
    sums = {name: hashlib.new(name, swu).hexdigest() for name in ("sha256", "sha1", "md5")}
    (public / "blobs" / f"{sums['sha256']}.artifact").write_bytes(swu)
    for release, counter in RELEASES.items():
        about = {"product": "gateway", "release": release, "counter": counter, "channel": "stable"}
        image = {"image": "rootfs", "root": root_of(release)}
        file = {"artifact": "os", "file_name": f"{release}.swu", "artifact_bytes": len(swu), **sums}
        for path, custom in (
            ("manifest.json", about),
            ("rootfs.full", image),
            ("os.artifact", file),
        ):
            entry = {"length": 1, "hashes": {"sha256": "0" * 64}, "custom": custom}
            targets[f"releases/{release}/{path}"] = entry
    date = {"expires": "2099-01-01T00:00:00Z"}
    for name, signed in (
        ("timestamp", {"meta": {"snapshot.json": {"version": 1}}, **date}),
        ("1.snapshot", {"meta": {"targets.json": {"version": 1}}, **date}),
        ("1.targets", {"targets": targets, **date}),
    ):
        (public / "metadata" / f"{name}.json").write_text(json.dumps({"signed": signed}))
    name = f"blobs/{'b' * 64}.payload"
    (public / name).write_bytes(random.Random(1).randbytes(1 << 20) * (BLOB_BYTES >> 20))
    return "/" + name


async def fill(database_url: str, number: int) -> None:
    """So many devices, all on 1.0."""
    database = await Database.open(database_url)
    for start in range(0, number, _ROWS_AT_ONCE):
        some = range(start, min(start + _ROWS_AT_ONCE, number))
        new = [
            Newcomer(
                name_of(one),
                "gateway",
                "stable",
                hash_token(token_of(one)),
                attributes={"site": f"s{one % 50}"},
            )
            for one in some
        ]
        seen = [_seen(one) for one in some]
        met: list[dict[str, object]] = [
            {"device": name_of(one), "since": _REGISTERED, "wants_attributes": False}
            for one in some
            if speaks_ddi(one)
        ]

        await database.write(partial(_add, new, seen, met))
    await database.close()


async def _add(
    new: list[Newcomer],
    seen: list[Seen],
    met: list[dict[str, object]],
    connection: AsyncConnection,
) -> None:
    await devices.add_all(connection, new, _REGISTERED)
    await polls.write(connection, seen)
    if met:
        await connection.execute(sa.insert(controllers), met)


async def create_rollout(database_url: str, plan: Plan, status: Status, now: int) -> None:
    """A rollout, made beside the server, as another server process makes it."""
    database = Database.connect(parse_url(database_url))
    made = await database.write(lambda connection: rollouts.create(connection, plan, status, now))
    assert made is not None
    await database.close()


async def wait_for_phase(database_url: str, give_up_s: float = 60) -> None:
    """Until a rollout that is running has its first phase open."""
    database = Database.connect(parse_url(database_url))
    give_up = time.monotonic() + give_up_s
    opened = False
    while not opened:
        assert time.monotonic() < give_up, "no phase was opened"
        await asyncio.sleep(0.1)
        async with database.reading() as connection:
            opened = any(one.opened for one in await rollouts.load(connection))
    await database.close()


def root_of(release: str) -> str:
    """The root hash of a release's image."""
    return str(RELEASES[release]) * 64


def name_of(device: int) -> str:
    return f"d{device:06}"


def token_of(device: int) -> str:
    return f"the token of device {device}, long enough"


def speaks_ddi(device: int) -> bool:
    return device % 4 == 3


def idle_poll_of(device: int) -> bytes:
    """A poll in the device's own protocol, as it says that nothing has changed."""
    if speaks_ddi(device):
        return get_bytes(f"/DEFAULT/controller/v1/{name_of(device)}", token_of(device))
    words = {"release": "1.0", "counter": 1, "booted_root": root_of("1.0"), "floor": 1}
    return poll_bytes(name_of(device), token_of(device), hardware="x86-64", slots=SLOTS, **words)


def _seen(device: int) -> Seen:
    ddi = speaks_ddi(device)
    slots = [
        {"name": "a", "release": "1.0", "state": "good"},
        {"name": "b", "release": None, "state": ""},
    ]
    return Seen(
        device=name_of(device),
        seen_at=_REGISTERED,
        hardware=None if ddi else "x86-64",
        release="1.0",
        counter=1,
        booted_root=root_of("1.0"),
        trial=False,
        slots="[]" if ddi else json.dumps(slots, separators=(",", ":")),
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.05)
