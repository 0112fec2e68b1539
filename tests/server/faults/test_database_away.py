"""A database that does not answer a running server: it says so, loses nothing, and goes on by itself."""

import re
import resource
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from slipstream.delta.limits import DATABASE_READERS
from tests.server import postgres
from tests.server.faults.meddling import Watch
from tests.server.faults.model import (
    DEVICES,
    PLAN,
    ROOTS,
    consistent,
    rows,
    status,
    undisturbed,
)
from tests.server.faults.processes import WAIT_S, Gadget, Refused, Server, serving

AWAY_S = 30.0
SPEED = 4  # of the server's clock: two minutes pass on it, twice as long as a device may be silent
LOOPS = 6  # of a server, that write for themselves
SOON_SILENT = {**PLAN, "silent_after_s": 60}


@pytest.fixture(autouse=True)
def _published(folder):
    for counter, root in ROOTS.items():
        folder.release(f"{counter}.0", counter)
        folder.full(f"{counter}.0", "rootfs", root, b"x" * counter)
    folder.write()


def report(key: str) -> dict[str, str]:
    return {"device": "d1", "key": key, "kind": "progress", "release": "2.0"}


def polled(server: Server, token: str) -> int:
    body = {"device": "d1", "product": "gateway", "release": "2.0", "counter": 2}
    return server.call("POST", "/v1/poll", body, token=token)[0]


def refuse(server: Server, token: str, key: str) -> str:
    """A report that is not acknowledged, and why: as the device is told and as the log says."""
    status, answer, headers = server.call("POST", "/v1/report", report(key), token=token)
    assert status == 503, answer
    assert int(headers["Retry-After"]) > 0
    (why,) = {
        line["reason"]
        for line in server.said()
        if line["event"] == "unavailable" and line["path"] == "/v1/report"
    }
    return str(why)


def keep(server: Server, token: str, *, acknowledged: str, refused: str) -> None:
    """What was acknowledged is there, and what was not is taken once when it comes again."""
    again = server.until("POST", "/v1/report", report(acknowledged), token=token)
    assert again["duplicate"], "an acknowledged report was lost"
    first = server.until("POST", "/v1/report", report(refused), token=token)
    assert not first["duplicate"], "it was refused, and kept all the same"
    assert server.until("POST", "/v1/report", report(refused), token=token)["duplicate"]
    assert not server.died()


def test_a_full_disk(folder, tmp_path):
    """The file may not grow: what the kernel answers where there is no block left."""
    path = tmp_path / "fleet.sqlite"
    with serving(folder.public, f"sqlite:///{path}") as server:
        token = server.register("d1")
        server.until("POST", "/v1/report", report("k1"), token=token)
        log = path.with_name("fleet.sqlite-wal")
        whole = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        full = (log.stat().st_size, whole[1])
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, full)
        assert "disk" in refuse(server, token, "k2")
        assert polled(server, token) == 200
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, whole)
        keep(server, token, acknowledged="k1", refused="k2")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = database.execute("SELECT key FROM reports ORDER BY id").fetchall()
    assert kept == [("k1",), ("k2",)]


def test_thirty_seconds_away(folder, tmp_path):
    """A rollout is in the middle of its first phase, and its database is away in each way there is."""
    path = tmp_path / "fleet.sqlite"
    with ExitStack() as stack:
        down, hung = (stack.enter_context(postgres.temporary()) for _ in range(2))
        outages = [
            Outage("locked", f"sqlite:///{path}", lambda: locked(path), "locked", reads=True),
            Outage("down", postgres.url(down, "postgres"), lambda: postgres.stopped(down)),
            Outage("hung", postgres.url(hung, "postgres"), lambda: postgres.frozen(hung)),
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(outages)))
        for done in [pool.submit(one.survive, folder.public) for one in outages]:
            done.result()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As a backup or a person with a shell may hold it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@dataclass
class Outage:
    """A database that goes away for AWAY_S under a server, nine devices and a rollout."""

    name: str
    url: str
    away: Callable[[], AbstractContextManager[None]]
    says: str = "does not answer"  # why nothing is kept now, as the device is told
    reads: bool = False  # goes on meanwhile
    told: set[str] = field(default_factory=set)
    refused: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # why, by device
    over: Event = field(default_factory=Event)

    def survive(self, public: Path) -> None:
        with serving(public, self.url, self.name, Watch(SPEED)) as server:
            gadgets = self.begin(server)
            silent, *others = sorted(gadgets, key=lambda one: one.name not in self.told)
            before = memory_and_files(server)
            with self.living(server) as enliven:
                with self.away():
                    until = time.monotonic() + AWAY_S
                    for one in others:
                        enliven(one)
                    while time.monotonic() < until:
                        self.check_health(server)
                        time.sleep(1.0)
                    self.check_refusals(others)
                self.wait_for_look()
                self.wait_for_look()
                found = rows(self.url, "SELECT device FROM events WHERE kind = 'silent'")
                assert found == [], "silence was counted while nobody could listen"
                enliven(silent)
                self.wait(lambda: self.is_through(gadgets))
                assert server.until("GET", "/healthz")["status"] == "ok"
            undisturbed(self.url, gadgets, self.told)
            consistent(self.url, gadgets, self.told)
            self.check_bounds(server, before)

    def begin(self, server: Server) -> list[Gadget]:
        """The devices of a rollout that has told two of them; what these have to say waits."""
        gadgets = [Gadget(f"d{n}", server.register(f"d{n}")) for n in range(DEVICES)]
        assert server.call("POST", "/api/v1/rollouts", SOON_SILENT)[0] == 201

        def two_told() -> bool:
            for one in gadgets:
                if one.name not in self.told:
                    one.step(server, ROOTS, self.told)
            return len(self.told) == 2

        self.wait(two_told)
        return gadgets

    @contextmanager
    def living(self, server: Server) -> Iterator[Callable[[Gadget], None]]:
        """Devices, once named, poll and report while inside, whatever they are answered.

        Raises at the end what one of them met: no answer, or any other than 200 and 503.
        """

        def live(gadget: Gadget) -> None:
            while not self.over.wait(0.5):
                try:
                    gadget.step(server, ROOTS, self.told)
                except Refused as error:
                    self.refused[gadget.name].add(str(error))

        lives: list[Future[None]] = []
        with ThreadPoolExecutor(DEVICES) as pool:
            try:
                yield lambda gadget: lives.append(pool.submit(live, gadget))
            finally:
                self.over.set()
        for one in lives:
            one.result()

    def check_health(self, server: Server) -> None:
        code, health, _ = server.call("GET", "/healthz")
        assert health["repository"] == "ok"
        assert (code == 200, health["database"] == "ok") == (self.reads, self.reads), health

    def check_refusals(self, asking: Sequence[Gadget]) -> None:
        """Nobody was told that anything was kept; all who needed the database were told to wait."""
        assert not any(one.acknowledged for one in asking), "nobody kept that"
        assert len(self.told) == 2, "nobody counted that"
        refused = {one.name for one in asking if one.name in self.told or not self.reads}
        assert self.refused.keys() == refused
        assert all(self.says in why for each in self.refused.values() for why in each)

    def check_bounds(self, server: Server, before: tuple[int, int]) -> None:
        """Nothing has piled up: no act, no memory, no connection."""
        acts = max(one["acts"] for one in server.said() if one["event"] == "waiting")
        memory, files = memory_and_files(server)
        assert acts <= DEVICES + LOOPS
        assert memory - before[0] < 16 << 20
        assert files - before[1] <= DEVICES + 2 * DATABASE_READERS

    def wait_for_look(self) -> None:
        """Until the engine has begun another look at the rollouts."""
        last = self.looked_at()
        self.wait(lambda: self.looked_at() > last)

    def looked_at(self) -> int:
        """When the engine looked last, as far as it is written down."""
        ((until,),) = rows(self.url, "SELECT until FROM leases WHERE name = 'engine'")
        return int(str(until))

    def is_through(self, gadgets: Sequence[Gadget]) -> bool:
        busy = any(one.unsent or one.runs == 1 for one in gadgets)
        return not busy and status(self.url) == "finished"

    def wait(self, done: Callable[[], bool]) -> None:
        give_up = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < give_up
            time.sleep(0.1)


def memory_and_files(server: Server) -> tuple[int, int]:
    """Most bytes resident so far, and files open now."""
    process = Path(f"/proc/{server.pid}")
    found = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    assert found is not None
    return int(found[1]) * 1024, len(list((process / "fd").iterdir()))
