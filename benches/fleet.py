"""A simulated fleet against a real server process: `make bench-server`.

    python -m benches.fleet [--devices 1000 10000 100000] [--seconds 20] [--report]

For each size of the fleet, on a SQLite file of its own: polls back to back, polls at the rate of a
fleet that polls every five minutes, a rollout made over all devices and rolled out in phases by
devices that fail, fall silent and fall back. Then a thousand downloads of ranges at once.
Client and server share the machine. --report writes docs/server-load.md.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benches.poll_load import Connection, at_a_rate, back_to_back, connect, poll_bytes, post_bytes
from benches.serve import CHILD, free_port, processor_seconds
from slipstream.server.rollout.plan import AbortRule, Phase, Plan
from slipstream.server.rollout.record import Status
from slipstream.server.store import rollouts
from slipstream.server.store.database import Database, parse_url
from slipstream.server.tokens import hash_token

RELEASES = {"1.0": 1, "2.0": 2}
BLOB_BYTES = 64 << 20
RANGE_BYTES = 1 << 20
DOWNLOADS = 1000
POLL_EVERY_S = 300
MEMBERS = 200  # devices of the rollout's first phase
REPORT = Path(__file__).parent.parent / "docs" / "server-load.md"


@dataclass
class Row:
    """The figures of one size of the fleet."""

    devices: int
    polls_per_s: float = 0
    cpu_ms: float = 0  # of the server's processor, for one poll
    rate: float = 0  # polls a second at which the percentiles were taken
    percentiles: tuple[float, ...] = ()  # 50, 95, 99; milliseconds
    create_s: float = 0
    open_s: float = 0
    decide_s: float = 0
    told: int = 0
    resident_mb: float = 0
    outcomes: dict[str, int] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--polls", type=int, default=10_000)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    rows = []
    for number in options.devices:
        with tempfile.TemporaryDirectory() as name, serving(Path(name), number) as server:
            row = Row(number)
            asyncio.run(measure_polls(server, row, options.polls, options.seconds))
            asyncio.run(measure_rollout(server, row))
            row.resident_mb = resident_mb(server.process)
            rows.append(row)
            print(json.dumps({**vars(row)}), flush=True)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), 1) as server:
        memory = asyncio.run(measure_downloads(server))
        print(json.dumps({"downloads": DOWNLOADS, **memory}), flush=True)
    if options.report:
        REPORT.write_text(page(rows, memory, " ".join(sys.argv[1:])))


@dataclass(frozen=True)
class Server:
    """A running server process."""

    process: "subprocess.Popen[bytes]"
    port: int
    database: Path
    blob: str


@contextmanager
def serving(folder: Path, devices: int) -> Iterator[Server]:
    """A server over a repository of two releases and a database of so many devices."""
    public = folder / "public"
    blob = make_repository(public)
    database = folder / "server" / "fleet.sqlite"
    database.parent.mkdir(mode=0o700)
    asyncio.run(fill(database, devices))
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(public), f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Server(process, port, database, blob)
    finally:
        process.terminate()
        process.wait()


def make_repository(public: Path) -> str:
    """Two releases and one blob; the blob's path on the server."""
    for name in ("metadata", "targets", "blobs"):
        (public / name).mkdir(parents=True)
    targets = {}
    for release, counter in RELEASES.items():
        about = {"product": "gateway", "release": release, "counter": counter, "channel": "stable"}
        image = {"image": "rootfs", "root": root_of(release)}
        for path, custom in (("manifest.json", about), ("rootfs.full", image)):
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


def root_of(release: str) -> str:
    return str(RELEASES[release]) * 64


def token_of(device: int) -> str:
    return f"the token of device {device}, long enough"


def name_of(device: int) -> str:
    return f"d{device:06}"


async def fill(path: Path, number: int) -> None:
    """Devices straight into the database: registering is not what is measured."""
    await (await Database.open(f"sqlite:///{path}")).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO devices (id, product, channel, token_digest, created_at, release, counter,"
            " attributes) VALUES (?, 'gateway', 'stable', ?, 1, '1.0', 1, ?)",
            (
                (name_of(one), hash_token(token_of(one)), json.dumps({"site": f"s{one % 50}"}))
                for one in range(number)
            ),
        )


def poll_of(device: int) -> bytes:
    release = "1.0"
    root = root_of(release)
    words = {"release": release, "counter": RELEASES[release], "booted_root": root, "floor": 1}
    slots = [{"name": "a", "release": release, "state": "good"}, {"name": "b"}]
    return poll_bytes(name_of(device), token_of(device), hardware="x86-64", slots=slots, **words)


async def measure_polls(server: Server, row: Row, count: int, seconds: float) -> None:
    # Without any rollout 2.0 would be offered to all; one that is over leaves nothing to offer.
    await create(server, "over", Status.ABORTED)
    await asyncio.sleep(1.5)  # until every poll is answered by it
    chance = random.Random(2)
    requests = [poll_of(chance.randrange(row.devices)) for _ in range(2000)]
    before = processor_seconds(server.process)
    times, taken = await back_to_back(server.port, lambda n: requests[n % 2000], count)
    assert not times.wrong
    row.polls_per_s = count / taken
    row.cpu_ms = 1e3 * (processor_seconds(server.process) - before) / count
    row.rate = row.devices / POLL_EVERY_S
    times = await at_a_rate(server.port, lambda n: requests[n % 2000], row.rate, seconds)
    assert not times.wrong
    row.percentiles = tuple(times.percentile(one) for one in (50, 95, 99))


async def measure_rollout(server: Server, row: Row) -> None:
    """A rollout over all devices, made beside the server; its first phases, played to the end."""
    begun = time.perf_counter()
    await create(server, "all", Status.SCHEDULED)
    row.create_s = time.perf_counter() - begun
    row.open_s = await wait_for_phases(server, 1, begun)
    await asyncio.sleep(1.5)  # until every poll is answered by it
    await play(server, row)


async def create(server: Server, name: str, status: Status) -> None:
    """A rollout, made beside the server by a process of its own."""
    phases = (Phase(count=MEMBERS), Phase(percent=100))
    # The usual rules would pause it when one of the first three fails, as they should.
    rules = (AbortRule(count=50),)
    plan = Plan(name, "gateway", "2.0", 2, phases, filter="release==1.0", abort=rules)
    database = Database.connect(parse_url(f"sqlite:///{server.database}"))
    made = await database.write(
        lambda connection: rollouts.create(connection, plan, status, int(time.time()))
    )
    assert made is not None
    await database.close()


async def wait_for_phases(server: Server, number: int, begun: float) -> float:
    """Seconds from `begun` until so many phases are open."""
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as look:
        while look.execute("SELECT count(*) FROM phases").fetchone()[0] < number:
            assert time.perf_counter() < begun + 120
            await asyncio.sleep(0.01)
    return time.perf_counter() - begun


async def play(server: Server, row: Row) -> None:
    """Every device polls; those that are told act: some fail, some fall back, some say nothing."""
    chance, outcomes = random.Random(3), row.outcomes
    told: list[int] = []
    numbers = iter(chance.sample(range(row.devices), row.devices))

    async def ask(one: Connection) -> None:
        for device in numbers:
            if len(told) >= MEMBERS:
                return
            status, body = await one.ask(poll_of(device))
            assert status == 200
            if json.loads(body)["action"] == "install":
                told.append(device)

    opened = await connect(server.port, 16)
    await asyncio.gather(*(ask(one) for one in opened))
    row.told = len(told)
    assert row.told <= MEMBERS
    fates = ["fetch", "boot", "silent"] + ["confirmed"] * 117  # within 95 %
    waiting = iter([(device, chance.choice(fates)) for device in told])

    async def act(one: Connection) -> None:
        for device, fate in waiting:
            outcomes[fate] = outcomes.get(fate, 0) + 1
            kinds = {
                "fetch": ("progress", "failed"),
                "boot": ("installed", "fell_back"),
                "silent": (),
                "confirmed": ("installed", "confirmed"),
            }[fate]
            for kind in kinds:
                await say(one, device, kind)

    await asyncio.gather(*(act(one) for one in opened))
    row.decide_s = await wait_for_phases(server, 2, time.perf_counter())


async def say(one: Connection, device: int, kind: str) -> None:
    report = {"key": kind, "device": name_of(device), "kind": kind, "release": "2.0", "counter": 2}
    if kind == "confirmed":
        report["booted_root"] = root_of("2.0")
    status, _ = await one.ask(post_bytes("/v1/report", token_of(device), report))
    assert status == 200


async def measure_downloads(server: Server) -> dict[str, float]:
    """DOWNLOADS ranges at once, each taken slowly: the server's memory before, during, after."""
    before = peak = resident_mb(server.process)
    done = 0

    async def take(number: int) -> None:
        nonlocal done
        first = (number % (BLOB_BYTES // RANGE_BYTES)) * RANGE_BYTES
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=65536)
        span = f"bytes={first}-{first + RANGE_BYTES - 1}"
        writer.write(f"GET {server.blob} HTTP/1.1\r\nHost: x\r\nRange: {span}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 206 " in head.split(b"\r\n", 1)[0]
        left = RANGE_BYTES
        while left:
            left -= len(await reader.read(min(left, 65536)))
            await asyncio.sleep(0.02)
        writer.close()
        done += 1

    begun = time.perf_counter()
    tasks = [asyncio.create_task(take(number)) for number in range(DOWNLOADS)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.05)
        peak = max(peak, resident_mb(server.process))
    await asyncio.gather(*tasks)
    assert done == DOWNLOADS
    return {
        "before_mb": before,
        "peak_mb": peak,
        "seconds": time.perf_counter() - begun,
        "after_mb": resident_mb(server.process),
    }


def resident_mb(process: "subprocess.Popen[bytes]") -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1000


def page(rows: list[Row], memory: dict[str, float], options: str) -> str:
    """docs/server-load.md."""
    load = os.getloadavg()[0]
    lines = [
        "# The server under load",
        "",
        f"Written by `python -m benches.fleet {options}` (`make bench-server`) on {platform.machine()},",
        f"{os.cpu_count()} cores that client, server and other work shared (load {load:.0f} at the end),",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}. Processor time is the",
        "figure that other work does not change much; times of day are those of a busy machine.",
        "",
        "| devices | polls/s back to back | processor per poll | at polls/s | p50 | p95 | p99 | resident |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        middle = " | ".join(f"{one:.1f} ms" for one in row.percentiles)
        lines.append(
            f"| {row.devices:,} | {row.polls_per_s:,.0f} | {row.cpu_ms:.2f} ms | {row.rate:.0f} |"
            f" {middle} | {row.resident_mb:.0f} MB |"
        )
    lines += [
        "",
        "An idle poll is one statement: tests/server/test_poll_cost.py counts them, on SQLite and on",
        "PostgreSQL.",
        "",
        f"A rollout over all devices, whose first phase is {MEMBERS} of them:",
        "",
        "| devices | created in | first phase open after | offered | outcomes | next phase open after the last report |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        outcomes = ", ".join(f"{value} {key}" for key, value in sorted(row.outcomes.items()))
        lines.append(
            f"| {row.devices:,} | {row.create_s * 1e3:.0f} ms | {row.open_s:.2f} s | {row.told} |"
            f" {outcomes} | {row.decide_s:.2f} s |"
        )
    lines += [
        "",
        (
            f"{DOWNLOADS:,} downloads of 1 MiB ranges at once, each read slowly, took"
            f" {memory['seconds']:.0f} s; resident memory {memory['before_mb']:.0f} MB before,"
            f" {memory['peak_mb']:.0f} MB at most, {memory['after_mb']:.0f} MB after."
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
