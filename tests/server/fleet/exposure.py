"""Servers, devices and operators in any order: does anybody hear of a release who should not?

A hypothesis state machine over the real store, engine and offers. Two servers share a database;
each may be restarted, killed in the middle of a transaction, and have a clock of its own. A device's
poll is read at one moment and answered at another; its reports come late, twice, in any order,
or never. What was answered is kept in a model, which knows nothing of the database.
"""

import asyncio
import logging
import shutil
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import sqlalchemy as sa
import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.engine import URL

from slipstream.delta.errors import SlipstreamError
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.fleet.hear import hear_report
from slipstream.server.fleet.polls import Said, answer_poll
from slipstream.server.rollout.offer import Decision, Install
from slipstream.server.rollout.plan import AbortRule, Budget, Phase, Plan, SuccessRule
from slipstream.server.rollout.record import Act, Rollout, Status
from slipstream.server.store import devices, grants, polls, rollouts
from slipstream.server.store.database import Database, parse_url
from slipstream.server.store.devices import Known
from slipstream.server.store.polls import Seen
from slipstream.server.store.reports import Report
from tests.server.fleet.exposure_model import (
    CATALOG,
    COUNTERS,
    FILTERS,
    ROOTS,
    WRONG_ROOT,
    Campaign,
    Gadget,
    Model,
)
from tests.server.unthreaded import unthreaded

BEGIN = 1_800_000_000
BUDGET = 1
DEVICES = 6
SILENT_S = 3600
WINDOW = "Mon,Tue,Wed,Thu,Fri,Sat,Sun 07:00-13:00"
_HALF = SuccessRule(percent=50)
PHASES = (
    (Phase(count=1, success=_HALF), Phase(count=3, success=_HALF), Phase(percent=100)),
    (Phase(percent=25), Phase(percent=60, soak_s=2, success=_HALF)),
    (Phase(selector="tag==x", success=_HALF), Phase(percent=50, success=_HALF)),
    (Phase(percent=30, success=SuccessRule(percent=0)), Phase(percent=100, success=_HALF)),
)
_LOOK = 'SELECT rollout, phase, members, "limit", cuts, offered FROM phases ORDER BY rollout, phase'
_HOLDS = "SELECT label, value, count(*) FROM holds GROUP BY label, value"
_device = st.integers(0, DEVICES + 2)
_server = st.integers(0, 1)
_seed = st.integers(0, (1 << 32) - 1)


class Killed(Exception):
    """Stands for kill -9: whatever ran in this server ends here."""


@dataclass
class Server:
    """One process: a database of its own, a board, an engine, a clock."""

    database: Database
    board: Board
    engine: Engine
    skew_s: int = 0
    polls: dict[str, Seen] = field(default_factory=dict)  # noted, not written yet
    stale: list[Rollout] = field(default_factory=list)  # what it once read


@dataclass(frozen=True)
class Pending:
    """A poll that a server has begun to answer."""

    server: Server
    gadget: Gadget
    known: Known
    said: Said
    at: int


class Exposure(RuleBasedStateMachine):
    """The machine. `url` makes an empty database. A step is an act and a look at every bound."""

    url: ClassVar[Callable[[], URL]]
    steps: ClassVar[int] = 0
    polls: ClassVar[int] = 0
    restarts: ClassVar[int] = 0
    kills: ClassVar[int] = 0  # of the restarts
    reports: ClassVar[Counter[str]] = Counter()  # that arrived, by kind
    repeats: ClassVar[int] = 0  # of them, those that had come before

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = BEGIN
        self.keys = 0
        self.model = Model(BUDGET)
        self.pending: list[Pending] = []
        self.at = type(self).url()
        self.eye = (
            sqlite3.connect(str(self.at.database), isolation_level=None)
            if self.at.drivername.startswith("sqlite")
            else None
        )
        self.servers = [self._run(self._start(number)) for number in range(2)]

    def teardown(self) -> None:
        if self.eye is not None:
            self.eye.close()
        for server in self.servers:
            self._run(server.database.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _run(self, what: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(what)

    async def _start(self, number: int) -> Server:
        database = Database.connect(self.at)
        board = Board(database)
        made = Server(database, board, None)  # type: ignore[arg-type] # it needs the clock
        made.engine = Engine(
            database, board, lambda: self.now + made.skew_s, f"s{number}", SILENT_S
        )
        await board.refresh()
        return made

    # --- what the world is like

    @initialize(sites=st.lists(st.sampled_from("abc"), min_size=DEVICES, max_size=DEVICES))
    def fill(self, sites: list[str]) -> None:
        for number, site in enumerate(sites):
            self._run(self._join(f"d{number}", site, "x" if number % 3 == 0 else ""))

    async def _join(self, name: str, site: str, tag: str) -> None:
        async def act(connection: Any) -> None:
            digest = name.encode().ljust(32)
            assert await devices.add(connection, name, "gateway", "stable", digest, self.now)
            tags = {tag} - {""}
            await devices.describe(connection, name, tags=tags, attributes={"site": site})

        await self.servers[0].database.write(act)
        self.model.gadgets[name] = Gadget(name, site, frozenset({tag} - {""}))

    @initialize(seed=_seed)
    def begin(self, seed: int) -> None:
        self._run(self._campaign(Random(seed)))
        self._run(self.servers[0].engine.tick(1.0))
        if seed % 4:
            self.live(seed)
        else:
            self.creep(0, wrong=seed % 8 == 0)

    @rule(seed=_seed)
    @precondition(lambda self: len(self.model.campaigns) < 3)
    def begin_another(self, seed: int) -> None:
        self._run(self._campaign(Random(seed)))

    async def _campaign(self, chance: Random) -> None:
        release = chance.choice(["2.0", "2.0", "3.0"])
        plan = Plan(
            f"r{len(self.model.campaigns)}",
            "gateway",
            release,
            COUNTERS[release],
            chance.choice(PHASES),
            filter=chance.choice(["", *FILTERS]),
            salt=str(chance.random()),
            stratify_by=chance.choice([None, "attribute.site"]),
            abort=chance.choice([(), (AbortRule(count=3),)]),
            silent_after_s=SILENT_S,
            budgets=chance.choice([(), (Budget("attribute.site", BUDGET),)]),
            max_downloads=chance.choice([None, None, 2]),
            windows=chance.choice([(), (), (), (WINDOW,)]),
        )
        server = self.servers[0]
        made = await server.database.write(
            lambda connection: rollouts.create(connection, plan, Status.SCHEDULED, self.now)
        )
        assert made is not None
        self.model.campaigns[made] = Campaign(made, plan)
        for one in self.servers:  # a line without any rollout gets the newest release
            await one.board.refresh()

    @rule(which=_device, site=st.sampled_from("abc"), tag=st.sampled_from(["", "x"]))
    def describe(self, which: int, site: str, tag: str) -> None:
        """An operator changes what a device is; one that is not there is added."""
        name = f"d{which}"
        gadget = self.model.gadgets.get(name)
        if gadget is None:
            self._run(self._join(name, site, tag))
            return
        tags = {tag} - {""}
        self._write(0, lambda c: devices.describe(c, name, tags=tags, attributes={"site": site}))
        gadget.site, gadget.tags = site, frozenset(tags)

    @rule(which=_device)
    def remove(self, which: int) -> None:
        name = f"d{which}"
        if self.model.gadgets.pop(name, None) is None:
            return
        self._write(1, lambda c: devices.remove(c, name))
        self.model.refused = {pair for pair in self.model.refused if pair[0] != name}
        for rollout, campaign in self.model.campaigns.items():
            self.model.settled(rollout, name)
            campaign.removed |= {name} & campaign.told.keys()
            campaign.removals += name in campaign.told
        self.pending = [one for one in self.pending if one.gadget.id != name]

    # --- devices

    def _pick(self, which: int, has: Callable[[Gadget], Any] = lambda _: True) -> Gadget | None:
        """One of the devices for which there is something to do."""
        found = [one for one in self.model.gadgets.values() if has(one)]
        return found[which % len(found)] if found else None

    @rule(seed=_seed)
    def live(self, seed: int) -> None:
        """An ordinary while: devices poll, do what they are told, and most reports arrive."""
        chance = Random(seed)
        gadgets = list(self.model.gadgets.values())
        for gadget in chance.sample(gadgets, chance.randint(0, len(gadgets))):
            server = chance.randrange(2)
            self._poll(gadget, server)
            if gadget.tasks and chance.random() < 0.8:
                self._work(gadget, chance.choice(["ok"] * 8 + ["boot", "fetch"]))
            while gadget.outbox and chance.random() < 0.9:
                self._deliver(gadget, gadget.outbox[0], server)
                self.bounded()
        self.flush(chance.randrange(2))
        self.tick(chance.randrange(2), 5)

    @rule(seed=_seed)
    def live_on(self, seed: int) -> None:
        """The same, so that it is chosen more often than each mishap."""
        self.live(seed)

    @rule(seed=_seed)
    def live_longer(self, seed: int) -> None:
        self.live(seed)
        self.live(seed + 1)

    @rule(which=_device, server=_server)
    def ask(self, which: int, server: int) -> None:
        """A poll arrives, and what is known of its device is read."""
        gadget = self._pick(which)
        if gadget is not None and len(self.pending) < 6:
            self.pending.append(self._run(self._ask(gadget, self.servers[server])))

    async def _ask(self, gadget: Gadget, server: Server) -> Pending:
        type(self).polls += 1
        at = self.now + server.skew_s
        known = await server.database.lookup.know(gadget.id.encode().ljust(32), at)
        assert known is not None
        runs = gadget.runs
        seen = Seen(gadget.id, at, None, runs, COUNTERS[runs], ROOTS[runs], gadget.trial, "[]")
        server.polls[gadget.id] = seen
        return Pending(
            server, gadget, known, Said(seen, failed=dict.fromkeys(gadget.failed, "")), at
        )

    @rule(index=st.integers(0, 5))
    def answer(self, index: int) -> None:
        """A poll that was begun some time ago is answered."""
        if self.pending:
            one = self.pending.pop(index % len(self.pending))
            self._hear(one, self._run(self._answer(one)))

    async def _answer(self, one: Pending) -> Decision:
        server = one.server
        return await answer_poll(
            server.database, server.board, CATALOG, one.known, one.said, one.at
        )

    @rule(
        which=_device,
        server=_server,
        what=st.sampled_from(["fall back", "leave", "pause"]),
        told=st.booleans(),
    )
    def meanwhile(self, which: int, server: int, what: str, told: bool) -> None:
        """Between a poll and its answer, what it was decided on changes at the other server."""
        gadget = self._pick(which, lambda one: bool(one.tasks) is told)
        if gadget is not None:
            self._change_meanwhile(gadget, server, what)

    @rule(
        server=_server,
        what=st.sampled_from(["fall back", "leave", "pause"]),
        told=st.booleans(),
        site=st.sampled_from("ab"),
    )
    def meet(self, server: int, what: str, told: bool, site: str) -> None:
        """The same with a device that has just joined, and so is likely to be offered something."""
        gadget = self._newcomer(0, site)
        if told:
            self._poll(gadget, server)
        self._change_meanwhile(gadget, server, what)

    def _newcomer(self, number: int, site: str) -> Gadget:
        """A device that every filter wants; one of its name was removed."""
        which = DEVICES + number
        self.remove(which)
        self._run(self._join(f"d{which}", site, "x"))
        return self.model.gadgets[f"d{which}"]

    def _change_meanwhile(self, gadget: Gadget, server: int, what: str) -> None:
        pending = self._run(self._ask(gadget, self.servers[server]))
        site, tag = gadget.site, "".join(gadget.tags)
        if what == "fall back":
            self._fall_back(gadget, 1 - server)
        elif what == "leave":
            self.describe(int(gadget.id[1:]), "c", "")  # outside of every filter but the empty one
        else:
            self._operate_all(Act.PAUSE, 1 - server)
        self._hear(pending, self._run(self._answer(pending)))
        self.bounded()
        if what == "fall back":
            self._lift_all(gadget)
        elif what == "leave":
            self.describe(int(gadget.id[1:]), site, tag)
        else:
            self._operate_all(Act.RESUME, 1 - server)

    @rule(server=_server, site=st.sampled_from("ab"))
    def fall_back_unasked(self, server: int, site: str) -> None:
        """A device tells of releases that it got elsewhere, forgets them, and polls."""
        gadget = self._newcomer(1, site)
        self._fall_back(gadget, server)
        self._poll(gadget, server)
        self._lift_all(gadget)

    def _fall_back(self, gadget: Gadget, server: int) -> None:
        for release in {one.plan.release for one in self.model.campaigns.values()}:
            self._note(gadget, "fell_back", release, None)
            self._deliver(gadget, gadget.outbox[-1], server)

    def _lift_all(self, gadget: Gadget) -> None:
        for release in {release for name, release in self.model.refused if name == gadget.id}:
            self._lift(gadget, release)

    @rule(server=_server)
    def change_hands(self, server: int) -> None:
        """Whoever was told nothing leaves; the others come through, a phase may open; they are back."""
        told = {name for one in self.model.campaigns.values() for name in one.told}
        left = [gadget for gadget in self.model.gadgets.values() if gadget.id not in told]
        for gadget in left:
            self.remove(int(gadget.id[1:]))
        for gadget in tuple(self.model.gadgets.values()):
            if gadget.tasks:
                self._work(gadget, "ok")
            while gadget.outbox:
                self._deliver(gadget, gadget.outbox[0], server)
        for _ in range(3):  # it is proved, it has soaked, it opens
            self.tick(server, 5)
        for gadget in left:
            self._run(self._join(gadget.id, gadget.site, "".join(gadget.tags)))
            self._poll(self.model.gadgets[gadget.id], server)

    @rule(server=_server, site=st.sampled_from("ab"))
    def try_again(self, server: int, site: str) -> None:
        """A device fails and gives its places back; its neighbour polls, then it does again."""
        one, other = self._newcomer(0, site), self._newcomer(1, site)
        self._poll(one, server)
        if one.tasks:
            self._work(one, "fetch")
            self._deliver(one, one.outbox[-1], server)
            self._poll(other, server)
            self._poll(one, server)

    @rule(server=_server, wrong=st.booleans())
    def creep(self, server: int, wrong: bool) -> None:
        """Devices install what they are told, and none has come up yet when the engine looks.

        Or all have, with a root that is none of the release's.
        """
        for gadget in tuple(self.model.gadgets.values()):
            self._poll(gadget, server)
            if gadget.tasks:
                self._work(gadget, "root" if wrong else "ok")
                installed, confirmed = gadget.outbox[-2:]
                for report in (installed, confirmed) if wrong else (installed,):
                    self._deliver(gadget, report, server)
        self.tick(server, 1)

    def _poll(self, gadget: Gadget, server: int) -> None:
        pending = self._run(self._ask(gadget, self.servers[server]))
        self._hear(pending, self._run(self._answer(pending)))
        self.bounded()

    def _hear(self, one: Pending, decision: Decision) -> None:
        gadget, model = one.gadget, self.model
        self._showed(one)
        if isinstance(decision, Install):
            rollout = decision.rollout
            assert rollout is not None, "offered without a rollout"
            # Of all that it belongs to, the first with room: only the grant knows.
            phase = self._phase_in_database(rollout.id, gadget.id)
            self._look()
            model.told(
                gadget, rollout.id, decision.release, phase, fresh=decision.fresh, now=one.at
            )
            return
        model.told_nothing(gadget.id)
        for rollout_id, campaign in model.campaigns.items():
            if campaign.aborted:
                model.settled(rollout_id, gadget.id)

    def _showed(self, one: Pending) -> None:
        """What the poll itself told of offers."""
        gadget, said = one.gadget, one.said
        for rollout, campaign in self.model.campaigns.items():
            release = campaign.plan.release
            if said.seen.release == release:
                campaign.confirmed.add(gadget.id)
                self.model.settled(rollout, gadget.id)
            if release in said.failed:
                self.model.settled(rollout, gadget.id)

    @rule(server=_server, which=st.lists(_device, min_size=2, max_size=6, unique=True))
    def crowd(self, server: int, which: list[int]) -> None:
        """Many devices at the same moment, at both servers."""
        gadgets = [self.model.gadgets[f"d{n}"] for n in which if f"d{n}" in self.model.gadgets]

        async def one(gadget: Gadget, number: int) -> tuple[Pending, Decision]:
            pending = await self._ask(gadget, self.servers[number % 2])
            return pending, await self._answer(pending)

        async def all_of_them() -> Any:
            crowd = (one(gadget, server + index) for index, gadget in enumerate(gadgets))
            return await asyncio.gather(*crowd)

        for pending, decision in self._run(all_of_them()):
            self._hear(pending, decision)

    @rule(which=_device, how=st.sampled_from(["ok", "ok", "ok", "root", "boot", "fetch", "begin"]))
    def work(self, which: int, how: str) -> None:
        """A device does what it was told; what it says of it waits in its outbox."""
        gadget = self._pick(which, lambda one: one.tasks)
        if gadget is not None:
            self._work(gadget, how)

    def _work(self, gadget: Gadget, how: str) -> None:
        _, release = gadget.tasks[-1]

        def note(kind: str, root: str | None = None) -> None:
            self._note(gadget, kind, release, root)

        if how == "begin":
            note("progress")
            return
        gadget.tasks.pop()
        if how == "fetch":
            note("failed")
            return
        note("installed")
        if how == "ok":
            gadget.runs = release
            note("confirmed", ROOTS[release])
        elif how == "root":
            note("confirmed", WRONG_ROOT)
        else:
            gadget.failed.add(release)
            note("fell_back", ROOTS["1.0"])

    @rule(which=_device)
    def regress(self, which: int) -> None:
        """A device that ran a release for some time falls back from it."""
        gadget = self._pick(which, lambda one: one.runs != "1.0")
        if gadget is not None:
            self._note(gadget, "fell_back", gadget.runs, None)
            gadget.runs = "1.0"

    def _note(self, gadget: Gadget, kind: str, release: str, root: str | None) -> None:
        self.keys += 1
        gadget.outbox.append(
            {"key": f"k{self.keys}", "kind": kind, "release": release, "root": root}
        )

    @rule(which=_device, server=_server, index=st.integers(0, 5), again=st.booleans())
    def send(self, which: int, server: int, index: int, again: bool) -> None:
        """A report arrives, whichever of those that wait, or one that came before."""
        gadget = self._pick(which, lambda one: one.sent if again else one.outbox)
        if gadget is not None:
            box = gadget.sent if again else gadget.outbox
            self._deliver(gadget, box[index % len(box)], server)

    def _deliver(self, gadget: Gadget, report: Mapping[str, Any], server: int) -> None:
        if report in gadget.outbox:
            gadget.outbox.remove(report)
            gadget.sent.append(report)
        self._run(self._send(gadget, report, self.servers[server]))

    async def _send(self, gadget: Gadget, report: Any, server: Server) -> None:
        kind, release, at = report["kind"], report["release"], self.now + server.skew_s
        type(self).reports[kind] += 1
        campaigns = [one for one in self.model.campaigns.values() if one.plan.release == release]
        proves = kind == "confirmed" and report["root"] == ROOTS[release]
        if proves:  # before: the answer may be lost
            for one in campaigns:
                one.confirmed.add(gadget.id)
        if kind in ("confirmed", "failed", "fell_back"):
            for one in campaigns:
                self.model.settled(one.id, gadget.id)
        heard = await hear_report(
            server.database,
            CATALOG,
            Report(gadget.id, report["key"], kind, release, 2, report["root"], "", "{}", 1, at),
        )
        type(self).repeats += not heard
        if heard and kind == "fell_back":
            self.model.refused.add((gadget.id, release))

    @rule(which=_device, index=st.integers(0, 5))
    def lose(self, which: int, index: int) -> None:
        """A report never arrives."""
        gadget = self._pick(which, lambda one: one.outbox)
        if gadget is not None:
            gadget.outbox.pop(index % len(gadget.outbox))

    # --- operators

    @rule(
        which=st.integers(0, 2),
        act=st.sampled_from([Act.PAUSE, Act.RESUME, Act.RESUME, Act.ABORT]),
        server=_server,
        sure=st.integers(0, 3),
    )
    def operate(self, which: int, act: Act, server: int, sure: int) -> None:
        if act is Act.ABORT and sure:
            return
        ids = sorted(self.model.campaigns)
        self._operate(self.model.campaigns[ids[which % len(ids)]], act, server)

    def _operate_all(self, act: Act, server: int) -> None:
        for campaign in self.model.campaigns.values():
            self._operate(campaign, act, server)

    def _operate(self, campaign: Campaign, act: Act, server: int) -> None:
        found = self._run(self._load(self.servers[server], campaign.id))
        with suppress(SlipstreamError):  # its status does not have this act
            engine = self.servers[server].engine
            if self._run(engine.change(found, act, "an operator", self.now)):
                campaign.halted = act is not Act.RESUME
                campaign.aborted = campaign.aborted or act is Act.ABORT

    @rule(which=_device, release=st.sampled_from(["2.0", "3.0"]))
    def lift(self, which: int, release: str) -> None:
        gadget = self._pick(which, lambda one: (one.id, release) in self.model.refused)
        if gadget is not None:
            self._lift(gadget, release)

    def _lift(self, gadget: Gadget, release: str) -> None:
        name = gadget.id
        self.model.refused.discard((name, release))
        gadget.failed.discard(release)
        self._write(0, lambda c: grants.lift_quarantine(c, name, release, self.now))

    # --- servers and their clocks

    @rule(server=_server, seconds=st.sampled_from([1, 1, 5, 60]))
    def tick(self, server: int, seconds: int) -> None:
        self.now += seconds
        self._run(self.servers[server].engine.tick(min(3.0, seconds)))
        self._after_ticks()

    @rule(seconds=st.integers(16, 40))
    def tick_together(self, seconds: int) -> None:
        """Both believe that the duty is theirs: its lease ends between them."""
        self.now += seconds

        async def both() -> None:
            one, other = self.servers
            self.now += 20  # every lease is over for whoever comes second
            await asyncio.gather(one.engine.tick(3.0), other.engine.tick(3.0))

        self._run(both())
        self._after_ticks()

    def _after_ticks(self) -> None:
        """Whoever was silent for long enough may have been given up; its place is still its own."""
        for rollout, name in tuple(self.model.away):
            since = max(self.now + one.skew_s for one in self.servers) - SILENT_S
            known = max(self.model.gadgets[name].written_at, self.model.since[rollout, name])
            if known <= since:
                self.model.given_up.add((rollout, name))

    @rule(server=_server)
    def remember(self, server: int) -> None:
        """A server reads a rollout and is slow to act on it."""
        one = self.servers[server]
        one.stale = [self._run(self._load(one, rollout)) for rollout in self.model.campaigns]

    @rule(server=_server, act=st.sampled_from([Act.PAUSE, Act.RESUME, None]))
    def act_on_memory(self, server: int, act: Act | None) -> None:
        """It acts on what it once read; by now everything may be different."""
        one = self.servers[server]
        for old in one.stale:
            current = self._run(self._load(one, old.id))
            if current.version == old.version:
                continue
            with suppress(SlipstreamError):
                if act is not None:
                    moved = self._run(one.engine.change(old, act, "late", self.now))
                    assert not moved, f"{act} on what was read before another act"
                elif old.status is Status.RUNNING and old.phase + 1 < len(old.plan.phases):
                    moved = self._run(one.engine.open_next(old, "late", self.now))
                    assert not moved, "a phase opened on what was read before another act"

    @rule(server=_server)
    def flush(self, server: int) -> None:
        one = self.servers[server]
        rows, one.polls = tuple(one.polls.values()), {}
        self._write(server, lambda c: polls.write(c, rows))
        for seen in rows:
            if seen.device in self.model.gadgets:
                self.model.gadgets[seen.device].written = seen.release
                self.model.gadgets[seen.device].written_at = seen.seen_at

    @rule(server=_server)
    def refresh(self, server: int) -> None:
        self._run(self.servers[server].board.refresh())

    @rule(server=_server)
    def restart(self, server: int) -> None:
        """Killed, and started again: what polls said and was not written is lost."""
        type(self).restarts += 1
        skew_s = self.servers[server].skew_s
        self.pending = [one for one in self.pending if one.server is not self.servers[server]]
        self._run(self.servers[server].database.close())
        self.servers[server] = self._run(self._start(server))
        self.servers[server].skew_s = skew_s

    @rule(
        server=_server,
        statement=st.integers(1, 9),
        what=st.sampled_from(["poll", "poll", "report", "tick"]),
        which=_device,
    )
    def kill(self, server: int, statement: int, what: str, which: int) -> None:
        """The server dies at one statement of what it does, or behind all of them."""
        one, gadget = self.servers[server], self._pick(which)
        with suppress(Killed), dying(one.database, statement):
            if what == "tick":
                self.now += 20
                self._run(one.engine.tick(3.0))
            elif gadget is not None and what == "poll":
                pending = self._run(self._ask(gadget, one))
                self._showed(pending)
                self.model.doubtful.add(gadget.id)
                self._run(self._answer(pending))
            elif gadget is not None and gadget.outbox:
                # Its answer never came: the device will send it again.
                self._run(self._send(gadget, gadget.outbox[0], one))
        self._after_ticks()
        type(self).kills += 1
        self.restart(server)

    @rule(seconds=st.sampled_from([60, 3000, 4000, 90_000]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(server=_server, seconds=st.sampled_from([-100_000, -3700, -60, 0, 0, 60, 3700, 100_000]))
    def jump(self, server: int, seconds: int) -> None:
        """A server's clock is set, rightly or not."""
        self.servers[server].skew_s = seconds

    # --- what must be true

    @invariant()
    def bounded(self) -> None:
        type(self).steps += 1
        self._look()
        self.model.check()

    def _look(self) -> None:
        """What the database says must be within its own bounds, too, and never change its mind."""
        rows, held = self._run(self._select(_LOOK, _HOLDS))
        for rollout, phase, members, limit, cuts, offered in rows:
            assert limit is None or offered <= limit, f"phase {phase}: {offered} of {limit}"
            campaign = self.model.campaigns[rollout]
            drawn = (phase, members, cuts)
            if phase == len(campaign.rows):
                self.model.opened(rollout, drawn, limit)
            assert campaign.rows[phase] == drawn, "a phase was opened twice"
            before = campaign.limits[phase]
            if limit != before:  # of what has left when the next one opened
                assert None not in (limit, before), "a limit came, or went"
                assert limit < before, "a phase was given more room"
                campaign.limits[phase] = limit
        for label, value, count in held:
            assert count <= BUDGET, f"{count} hold a place of {label} {value}"

    async def _select(self, *statements: str) -> list[Any]:
        if self.eye is not None:
            return [self.eye.execute(one).fetchall() for one in statements]
        async with self.servers[0].database.reading() as connection:
            return [(await connection.execute(sa.text(one))).all() for one in statements]

    def _phase_in_database(self, rollout: int, device: str) -> int:
        query = f"SELECT phase FROM attempts WHERE rollout = {rollout} AND device = '{device}'"
        (rows,) = self._run(self._select(query))
        assert rows, "an offer was said that was never written down"
        return int(rows[0][0])

    def _write(self, server: int, act: Any) -> Any:
        return self._run(self.servers[server].database.write(act))

    async def _load(self, server: Server, rollout: int) -> Rollout:
        async with server.database.reading() as connection:
            (found,) = await rollouts.load(connection, ids=[rollout])
        return found


@contextmanager
def dying(database: Database, statement: int) -> Iterator[None]:
    """The process dies when it is about to run its `statement`-th statement that writes."""
    engine = database._writer.sync_engine
    left = statement

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Killed

    sa.event.listen(engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", count)


@contextmanager
def sqlite_machine(machine: type[Exposure]) -> Iterator[type[Exposure]]:
    """The machine on SQLite files in memory: every example begins with a copy of an empty one."""
    memory = Path("/dev/shm")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        empty = parse_url(f"sqlite:///{folder / 'empty.sqlite'}")

        async def make() -> None:
            await (await Database.open(empty.render_as_string())).close()

        asyncio.run(make())

        def url() -> URL:
            for old in folder.glob("fleet.*"):
                old.unlink()
            shutil.copyfile(str(empty.database), folder / "fleet.sqlite")
            return parse_url(f"sqlite:///{folder / 'fleet.sqlite'}")

        with unthreaded():
            yield _machine_on(url, machine)


@contextmanager
def postgresql_machine(
    machine: type[Exposure], make: Callable[[], URL]
) -> Iterator[type[Exposure]]:
    """The machine on PostgreSQL; `make` gives it a new database for every example."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def url() -> URL:
        made = make()

        async def fill() -> None:
            await (await Database.open(made.render_as_string(hide_password=False))).close()

        asyncio.run(fill())
        return made

    yield _machine_on(url, machine)


def _machine_on(url: Callable[[], URL], machine: type[Exposure]) -> type[Exposure]:
    class Machine(machine):  # type: ignore[valid-type,misc]
        reports: ClassVar[Counter[str]] = Counter()

    Machine.url = staticmethod(url)  # type: ignore[assignment]
    return Machine
