"""A simulated fleet against a real server process: `make bench-server`.

    python -m benches.fleet [--devices 1000 10000 100000] [--postgresql 10000] [--seconds 20]
                            [--polls 10000] [--downloads 1000] [--report]

For each size of the fleet, on a database of its own: idle polls back to back, native and DDI; polls
of both at RATE_PER_S, which is a fleet of 100,000 that polls every five minutes; then a rollout in
two phases over all devices, played by devices that fail, fall silent and fall back. At last a
thousand downloads of ranges at once. Client and server share the machine. --report writes
docs/server-load.md and docs/server-load.json.
"""

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benches import fleet_report
from benches.fleet_server import (
    BLOB_BYTES,
    Server,
    create_rollout,
    fill,
    idle_poll_of,
    make_repository,
    name_of,
    root_of,
    serving,
    speaks_ddi,
    token_of,
    wait_for_phase,
)
from benches.poll_load import Connection, at_a_rate, back_to_back, close, connect, post_bytes
from slipstream.server.rollout.plan import AbortRule, Phase, Plan
from slipstream.server.rollout.record import Status
from tests.server import postgres

RANGE_BYTES = 1 << 20
RATE_PER_S = 100_000 / 300
MEMBERS = 200  # devices of the rollout's first phase, in a fleet that has three times as many
ROUNDS = 3
ROLLOUTS_SEEN_S = 1.5  # a server looks for others' every second


@dataclass
class Row:
    """The figures of one size of the fleet."""

    database: str
    devices: int
    native_per_s: float = 0  # idle polls back to back
    native_cpu_ms: float = 0  # of the server's processor, for one of them
    ddi_per_s: float = 0
    ddi_cpu_ms: float = 0
    statements_per_poll: float = 0  # with all that the server asks its database beside the polls
    rate_per_s: float = RATE_PER_S
    rate_cpu_percent: float = 0  # of one core
    rate_waited_percent: float = 0  # of the time, for a processor that others had
    percentiles_ms: dict[str, float] = field(default_factory=dict)
    create_s: float = 0  # a rollout over all devices
    sweep_per_s: float = 0  # every device polls once, a phase is handed out meanwhile
    phase: int = 0
    offered: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    decide_s: float = 0  # from the last deciding report to the next phase's first offer
    resident_mb: float = 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--postgresql", type=int, nargs="*", default=[10_000])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--polls", type=int, default=10_000)
    parser.add_argument("--downloads", type=int, default=1000)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    for kind, sizes in (("SQLite", options.devices), ("PostgreSQL", options.postgresql)):
        for number in sizes:
            with fleet(kind, number) as server:
                rows.append(measure(server, kind, number, options.polls, options.seconds))
            print(json.dumps(asdict(rows[-1])), flush=True)
    with fleet("SQLite", 1) as server:
        memory = asyncio.run(measure_downloads(server, options.downloads))
    print(json.dumps(memory), flush=True)
    if options.report:
        fleet_report.write([asdict(one) for one in rows], memory, sys.argv[1:], load)


@contextmanager
def fleet(kind: str, number: int) -> Iterator[Server]:
    """A server, and its database of a kind with so many devices."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        blob = make_repository(folder)
        if kind == "PostgreSQL":
            folder.chmod(0o755)  # its account has to pass
            running = stack.enter_context(postgres.running(folder / "postgresql"))
            postgres.execute(running, "CREATE DATABASE fleet")
            url = postgres.url(running, "fleet")
        else:
            url = f"sqlite:///{folder / 'fleet.sqlite'}"
        asyncio.run(fill(url, number))
        yield stack.enter_context(serving(folder / "repo", blob, url))


def measure(server: Server, kind: str, number: int, polls: int, seconds: float) -> Row:
    """All figures of one server."""
    row = Row(kind, number)

    async def run() -> None:
        # Without any rollout 2.0 would be offered to all; one that is over leaves nothing to offer.
        await create_rollout(server.database_url, plan("over", 1), Status.ABORTED, _now())
        await asyncio.sleep(ROLLOUTS_SEEN_S)
        await measure_idle(server, row, polls, seconds)
        await measure_rollout(server, row)
        row.resident_mb = server.resident_mb()

    asyncio.run(run())
    return row


def plan(name: str, members: int) -> Plan:
    # The usual rules would pause it when one of the first three fails, as they should.
    rules = (AbortRule(count=50),)
    phases = (Phase(count=members), Phase(percent=100))
    return Plan(name, "gateway", "2.0", 2, phases, filter="release==1.0", abort=rules)


async def measure_idle(server: Server, row: Row, polls: int, seconds: float) -> None:
    chance = random.Random(2)
    some = [chance.randrange(row.devices) for _ in range(5000)]
    native = [idle_poll_of(one) for one in some if not speaks_ddi(one)]
    ddi = [idle_poll_of(one) for one in some if speaks_ddi(one)]
    row.native_per_s, row.native_cpu_ms, row.statements_per_poll = await _flat_out(
        server, native, polls
    )
    row.ddi_per_s, row.ddi_cpu_ms, _ = await _flat_out(server, ddi, polls // 2)
    both = [idle_poll_of(one) for one in some]
    before, waited, begun = server.processor_s(), server.waited_s(), time.perf_counter()
    times = await at_a_rate(server.port, lambda n: both[n % len(both)], row.rate_per_s, seconds)
    assert not times.wrong
    taken = time.perf_counter() - begun
    row.rate_cpu_percent = 1e2 * (server.processor_s() - before) / taken
    row.rate_waited_percent = 1e2 * (server.waited_s() - waited) / taken
    row.percentiles_ms = {f"p{one}": times.percentile(one) for one in (50, 95, 99)}


async def _flat_out(
    server: Server, requests: list[bytes], polls: int
) -> tuple[float, float, float]:
    """Polls a second, milliseconds of processor and statements for each: medians of ROUNDS."""
    rates, costs, counts = [], [], []
    for _ in range(ROUNDS):
        asked, spent = server.statements(), server.processor_s()
        times, taken = await back_to_back(server.port, lambda n: requests[n % len(requests)], polls)
        assert not times.wrong
        rates.append(polls / taken)
        costs.append(1e3 * (server.processor_s() - spent) / polls)
        counts.append((server.statements() - asked) / polls)
    return statistics.median(rates), statistics.median(costs), statistics.median(counts)


async def measure_rollout(server: Server, row: Row) -> None:
    """A rollout over all devices: its first phase is handed out and played to the end."""
    row.phase = min(MEMBERS, row.devices // 3)
    begun = time.perf_counter()
    await create_rollout(server.database_url, plan("all", row.phase), Status.SCHEDULED, _now())
    row.create_s = time.perf_counter() - begun
    await wait_for_phase(server.database_url)
    await asyncio.sleep(ROLLOUTS_SEEN_S)
    opened = await connect(server.port, 16)
    begun = time.perf_counter()
    told = await _sweep(opened, row.devices)
    row.sweep_per_s = row.devices / (time.perf_counter() - begun)
    row.offered = len(told)
    assert row.offered == row.phase, f"{row.offered} offers, in a phase of {row.phase}"
    waiting = next(one for one in range(row.devices) if one not in told and not speaks_ddi(one))
    row.decide_s = await _play(opened, told, waiting, row)
    close(opened)


async def _sweep(opened: list[Connection], number: int) -> dict[int, str]:
    """Every device polls once: those that are told to install, with the path of a DDI action."""
    told: dict[int, str] = {}
    devices = iter(random.Random(3).sample(range(number), number))

    async def ask(one: Connection) -> None:
        for device in devices:
            action = await _told(one, device)
            if action is not None:
                told[device] = action

    await asyncio.gather(*(ask(one) for one in opened))
    return told


async def _told(one: Connection, device: int) -> str | None:
    """What a device is told: the path of its action, "" for native ones; None: nothing."""
    status, body = await one.ask(idle_poll_of(device))
    assert status == 200
    answer = json.loads(body)
    if not speaks_ddi(device):
        return "" if answer["action"] == "install" else None
    link = answer.get("_links", {}).get("deploymentBase")
    return None if link is None else "/" + link["href"].split("/", 3)[3].partition("?")[0]


async def _play(opened: list[Connection], told: dict[int, str], waiting: int, row: Row) -> float:
    """The devices act; seconds from the report that decides to the next phase's first offer.

    The phase needs 95 %: the last of its devices that is confirmed decides.
    """
    needed = math.ceil(0.95 * len(told))
    native_last = sorted(told, key=lambda one: (not speaks_ddi(one), one))
    lost = native_last[: len(told) - needed]
    fates = {one: ("fetch", "boot", "silent")[index % 3] for index, one in enumerate(lost)}
    order = iter(native_last[:-1])

    async def act(one: Connection) -> None:
        for device in order:
            for request in words_of(device, told[device], fates.get(device, "confirmed")):
                status, body = await one.ask(request)
                assert status == 200, body

    await asyncio.gather(*(act(one) for one in opened))
    row.outcomes = dict(Counter(fates.get(one, "confirmed") for one in told))
    *before, deciding = words_of(native_last[-1], "", "confirmed")
    for request in before:
        await opened[0].ask(request)
    assert await _told(opened[1], waiting) is None, "the next phase opened too early"
    begun = time.perf_counter()
    status, _ = await opened[0].ask(deciding)
    assert status == 200
    while await _told(opened[1], waiting) is None:
        assert time.perf_counter() < begun + 60
        await asyncio.sleep(0.01)
    return time.perf_counter() - begun


def words_of(device: int, action: str, fate: str) -> list[bytes]:
    """The requests by which a device tells what became of its offer."""
    token = token_of(device)
    if not speaks_ddi(device):
        kinds = {
            "fetch": ("progress", "failed"),
            "boot": ("installed", "fell_back"),
            "silent": (),
            "confirmed": ("installed", "confirmed"),
        }[fate]
        about = {"device": name_of(device), "release": "2.0", "counter": 2}
        root = {"booted_root": root_of("2.0")}
        return [
            post_bytes(
                "/v1/report",
                token,
                {**about, "key": kind, "kind": kind, **(root if kind == "confirmed" else {})},
            )
            for kind in kinds
        ]
    said = {
        "fetch": (("proceeding", "none", "Downloading."), ("closed", "failure", "No space.")),
        "boot": (
            ("proceeding", "none", "All Chunks Installed."),
            ("closed", "failure", "Came back with the old one."),
        ),
        "silent": (),
        "confirmed": (("closed", "success", "Done."),),
    }[fate]
    words = [
        post_bytes(
            f"{action}/feedback",
            token,
            {"status": {"execution": one, "result": {"finished": end}, "details": [line]}},
            scheme="TargetToken",
        )
        for one, end, line in said
    ]
    if fate == "confirmed":
        data = {"slipstream.release": "2.0", "slipstream.booted_root": root_of("2.0")}
        path = f"/DEFAULT/controller/v1/{name_of(device)}/configData"
        body = {"mode": "merge", "data": data}
        words.append(post_bytes(path, token, body, method="PUT", scheme="TargetToken"))
    return words


async def measure_downloads(server: Server, number: int, pause_s: float = 0.5) -> dict[str, float]:
    """So many ranges at once, each taken slowly: the server's memory before, during, after."""
    before = peak = server.resident_mb()
    flowing = most = 0

    async def take(one: int) -> None:
        nonlocal flowing, most
        first = (one % (BLOB_BYTES // RANGE_BYTES)) * RANGE_BYTES
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=65536)
        span = f"bytes={first}-{first + RANGE_BYTES - 1}"
        writer.write(f"GET {server.blob} HTTP/1.1\r\nHost: x\r\nRange: {span}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 206 " in head.split(b"\r\n", 1)[0]
        flowing += 1
        most = max(most, flowing)
        left = RANGE_BYTES
        while left:
            piece = await reader.read(min(left, 65536))
            assert piece, "it broke off"
            left -= len(piece)
            await asyncio.sleep(pause_s)
        flowing -= 1
        writer.close()

    begun = time.perf_counter()
    tasks = [asyncio.create_task(take(one)) for one in range(number)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.05)
        peak = max(peak, server.resident_mb())
    await asyncio.gather(*tasks)
    return {
        "downloads": number,
        "at_once": most,
        "range_bytes": RANGE_BYTES,
        "before_mb": before,
        "peak_mb": peak,
        "after_mb": server.resident_mb(),
        "seconds": time.perf_counter() - begun,
        "mb_per_s": number * RANGE_BYTES / 1e6 / (time.perf_counter() - begun),
    }


def _now() -> int:
    return int(time.time())


if __name__ == "__main__":
    main()
