"""A rollout from its first phase to its end, over the real database and the real engine."""

import asyncio
import json
from dataclasses import dataclass, field, replace

import pytest
import sqlalchemy as sa

from slipstream.delta.limits import FINISHED_LOOK_S, LISTEN_GAP_S
from slipstream.installer.reports import Failure
from slipstream.server.catalog import Catalog, ImageOffer, Release
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.fleet.hear import hear_poll, hear_report
from slipstream.server.fleet.moves import draw_phase, open_phase_as
from slipstream.server.fleet.polls import Said, answer_poll
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.judge import Tally
from slipstream.server.rollout.offer import Install, Stay
from slipstream.server.rollout.order import phase_of
from slipstream.server.rollout.plan import (
    AbortRule,
    Budget,
    FailureClass,
    Halting,
    Phase,
    Plan,
    Proof,
    SuccessRule,
)
from slipstream.server.rollout.record import Act, Status
from slipstream.server.rollout.track import State
from slipstream.server.store import (
    attempts,
    devices,
    events,
    grants,
    holds,
    leases,
    polls,
    quarantines,
    rollouts,
    tallies,
)
from slipstream.server.store.database import Database
from slipstream.server.store.polls import Seen
from slipstream.server.store.reports import Report

ROOTS = {"1.0": "1" * 64, "2.0": "2" * 64}
CATALOG = Catalog(
    tuple(
        Release("gateway", name, counter, "stable", (ImageOffer("rootfs", ROOTS[name], 1),))
        for counter, name in ((2, "2.0"), (1, "1.0"))
    ),
    "2030-01-01T00:00:00Z",
    0,
)
PLAN = Plan(
    "two",
    "gateway",
    "2.0",
    2,
    (Phase(count=2), Phase(percent=50), Phase(percent=100)),
    abort=(AbortRule(count=2),),
)


@dataclass
class Fleet:
    """A database with a board, an engine, and a clock that stands still."""

    database: Database
    now: int = 1_800_000_000
    runs: dict[str, str] = field(default_factory=dict)
    keys: int = 0
    counted: bool = True  # devices say the counter of what they run

    def __post_init__(self):
        self.board = Board(self.database)
        self.engine = Engine(self.database, self.board, lambda: self.now, "one")

    async def add(self, number, first=0):
        async def act(connection):
            for index in range(first, first + number):
                name = f"d{index:03}"
                digest = name.encode().ljust(32)
                await devices.add(connection, name, "gateway", "stable", digest, self.now)
                self.runs[name] = "1.0"

        await self.database.write(act)

    async def start(self, plan=PLAN):
        made = await self.database.write(
            lambda connection: rollouts.create(connection, plan, Status.SCHEDULED, self.now)
        )
        await self.tick()
        return made

    async def listen(self, seconds):
        """So much time passes, in which a server is there."""
        self.engine.gap_s = seconds
        self.now += seconds
        await self.tick()
        self.engine.gap_s = LISTEN_GAP_S

    async def tick(self, elapsed_s=1.0):
        await self.engine.tick(elapsed_s)

    async def poll(self, name, *, trial=False, failed=(), release=None):
        runs = release or self.runs[name]
        async with self.database.reading() as connection:
            known = await devices.know(connection, devices.by_id(name))
        counter = int(runs[0]) if self.counted else None
        seen = Seen(name, self.now, None, runs, counter, ROOTS[runs], trial, "[]")
        await self.database.write(lambda c: polls.write(c, [seen]))
        return await self.answer(known, seen, failed)

    async def ask(self, name):
        """A poll that says nothing new: nothing is written down for it."""
        async with self.database.reading() as connection:
            known = await devices.know(connection, devices.by_id(name))
        seen = Seen(name, self.now, None, "1.0", 1, ROOTS["1.0"], False, "[]")
        return await self.answer(known, seen, ())

    async def answer(self, known, seen, failed):
        said = Said(seen, failed=dict.fromkeys(failed, "it broke"))
        return await answer_poll(self.database, self.board, CATALOG, known, said, self.now)

    async def poll_all(self):
        answers = {name: await self.poll(name) for name in sorted(self.runs)}
        return sorted(name for name, one in answers.items() if isinstance(one, Install))

    async def report(self, name, kind, root="2" * 64, **details):
        self.keys += 1
        told = json.dumps(details)
        report = Report(name, f"k{self.keys}", kind, "2.0", 2, root, "why", told, 1, self.now)
        return await hear_report(self.database, CATALOG, report)

    async def confirm(self, *names):
        for name in names:
            await self.report(name, "installed")
            await self.report(name, "confirmed")
            self.runs[name] = "2.0"

    async def look(self, rollout=1):
        async with self.database.reading() as connection:
            (found,) = await rollouts.load(connection, ids=[rollout])
            return found

    async def held(self):
        """Places in budgets that devices hold."""
        async with self.database.reading() as connection:
            return sum((await holds.count(connection)).values())

    async def state(self, name):
        async with self.database.reading() as connection:
            (found,) = await attempts.of_device(connection, name)
        return found.state


@pytest.fixture
def with_rollout(with_database):
    def run(test, devices=8):
        async def main(database):
            fleet = Fleet(database)
            await fleet.add(devices)
            await test(fleet)

        with_database(main)

    return run


def test_phases_open_one_after_the_other_as_devices_confirm(with_rollout):
    async def test(fleet):
        await fleet.start()
        first = await fleet.poll_all()
        assert len(first) == 2
        assert await fleet.poll_all() == first  # the same offer again, to the same devices
        await fleet.tick()
        assert (await fleet.look()).phase == 0
        await fleet.confirm(*first)
        await fleet.tick()
        assert (await fleet.look()).phase == 1
        second = await fleet.poll_all()
        assert len(second) == 2  # half of eight, the first two included
        await fleet.confirm(*second)
        await fleet.tick()
        rest = await fleet.poll_all()
        assert len(rest) == 4
        await fleet.confirm(*rest)
        await fleet.tick()
        found = await fleet.look()
        assert (found.status, found.phase) == (Status.FINISHED, 2)
        assert await fleet.poll_all() == []
        async with fleet.database.reading() as connection:
            told = await events.list_of_rollout(connection, 1, limit=99)
        assert [one.kind for one in reversed(told) if one.kind in ("phase", "rollout")] == [
            "phase",
            "phase",
            "phase",
            "rollout",
        ]

    with_rollout(test)


def test_devices_that_have_the_release_are_part_of_the_whole(with_rollout):
    async def test(fleet):
        await fleet.start()
        first = await fleet.poll_all()
        await fleet.confirm(*first)
        assert len(await fleet.poll_all()) == 0  # the server knows now that they run it
        await fleet.tick()
        assert (await fleet.look()).opened[1].limit == 2  # half of eight, the first two included
        assert len(await fleet.poll_all()) == 2

    with_rollout(test)


def test_a_full_phase_leaves_a_device_that_joined_late_to_the_next(with_rollout):
    async def test(fleet):
        plan = replace(PLAN, phases=(Phase(count=7), Phase(percent=100)))
        await fleet.start(plan)
        first = await fleet.poll_all()
        assert len(first) == 7
        await fleet.add(12, first=8)
        opened = (await fleet.look()).opened
        below = {one for one in fleet.runs if phase_of(plan, opened, Facts(one, "gateway")) == 0}
        late = sorted(below - set(first))
        assert late, "seven of eight positions are below the cut"
        assert not set(late) & set(await fleet.poll_all())
        await fleet.confirm(*first)
        await fleet.tick()
        offered = await fleet.poll_all()
        assert set(late) <= set(offered)
        async with fleet.database.reading() as connection:
            (found,) = await attempts.of_device(connection, late[0])
        assert found.phase == 1

    with_rollout(test)


def test_installed_is_not_confirmed(with_rollout):
    async def test(fleet):
        await fleet.start()
        for name in await fleet.poll_all():
            await fleet.report(name, "installed")
        await fleet.tick()
        assert (await fleet.look()).phase == 0

    with_rollout(test)


def test_another_root_hash_is_a_failure(with_rollout):
    async def test(fleet):
        await fleet.start()
        one, other = await fleet.poll_all()
        await fleet.report(one, "confirmed", root="3" * 64)
        assert await fleet.state(one) is State.FAILED
        await fleet.report(other, "confirmed", root=None)  # proves nothing
        assert await fleet.state(other) is State.OFFERED
        async with fleet.database.reading() as connection:
            counted = await tallies.of_rollout(connection, 1)
        assert counted[0].failures == {FailureClass.ROOT: 1}

    with_rollout(test)


@pytest.mark.parametrize(
    "kind, said",
    [
        *(("failed", one) for one in Failure),
        ("fell_back", Failure.BOOT),
        ("fell_back", Failure.ROOT),
    ],
)
def test_failures_are_counted_by_the_class_that_the_device_names(with_rollout, kind, said):
    async def test(fleet):
        await fleet.start()
        one, _ = await fleet.poll_all()
        await fleet.report(one, kind, **{"class": said.value})
        async with fleet.database.reading() as connection:
            counted = await tallies.of_rollout(connection, 1)
        assert counted[0].failures == {FailureClass(said.value): 1}

    with_rollout(test)


@pytest.mark.parametrize(
    "proof, end", [(Proof.REPORT, State.CONFIRMED), (Proof.ROOT, State.FETCHING)]
)
def test_downloaded_is_the_end_only_where_no_boot_is_to_prove_it(with_rollout, proof, end):
    async def test(fleet):
        await fleet.start(replace(PLAN, download_only=True, proof=proof))
        one, _ = await fleet.poll_all()
        await fleet.report(one, "progress", downloaded=True)
        assert await fleet.state(one) is end

    with_rollout(test)


def test_a_lost_report_is_seen_in_a_poll(with_rollout):
    async def test(fleet):
        await fleet.start()
        one, other = await fleet.poll_all()
        await fleet.poll(one, release="2.0", trial=True)
        assert await fleet.state(one) is State.OFFERED
        await fleet.poll(one, release="2.0")
        assert await fleet.state(one) is State.CONFIRMED
        assert isinstance(await fleet.poll(other, failed=["2.0"]), Stay)
        assert await fleet.state(other) is State.FELL_BACK

    with_rollout(test)


def test_failures_pause_and_a_resume_forgives_them(with_rollout):
    async def test(fleet):
        await fleet.start()
        one, other = await fleet.poll_all()
        await fleet.report(one, "fell_back")
        await fleet.tick()
        assert (await fleet.look()).status is Status.RUNNING
        await fleet.report(other, "fell_back")
        await fleet.tick()
        found = await fleet.look()
        assert found.status is Status.PAUSED
        assert "2 failed" in found.reason
        assert await fleet.poll_all() == []
        assert await fleet.engine.change(found, Act.RESUME, "looked at", fleet.now)
        await fleet.tick()
        assert (await fleet.look()).status is Status.RUNNING
        # The pair is quarantined all the same.
        answer = await fleet.poll(one)
        assert "quarantined on this device: why" in answer.reason

    with_rollout(test)


def test_a_rule_that_aborts_fires_while_paused(with_rollout):
    """The devices that had begun go on: what they report counts, and may be the end."""
    stop = AbortRule(count=2, action=Halting.ABORT)

    async def test(fleet):
        await fleet.start(replace(PLAN, abort=(AbortRule(count=1), stop)))
        one, other = await fleet.poll_all()
        await fleet.confirm(other)
        await fleet.report(one, "fell_back")
        await fleet.tick()
        assert (await fleet.look()).status is Status.PAUSED
        await fleet.tick(10_000)
        paused = await fleet.look()
        assert (paused.status, paused.phase) == (Status.PAUSED, 0)
        fleet.runs[other] = "1.0"
        await fleet.poll(other)
        assert await fleet.state(other) is State.REGRESSED
        await fleet.tick()
        found = await fleet.look()
        assert (found.status, found.phase) == (Status.ABORTED, 0)
        assert found.reason == "phase 1: 2 failed, at most 1 may"

    with_rollout(test)


def test_a_late_fall_back_opens_the_verdict_again(with_rollout):
    async def test(fleet):
        await fleet.start()
        for _ in range(3):
            await fleet.confirm(*await fleet.poll_all())
            await fleet.tick()
        assert (await fleet.look()).status is Status.FINISHED
        name = min(fleet.runs)
        fleet.runs[name] = "1.0"
        answer = await fleet.poll(name)
        assert await fleet.state(name) is State.REGRESSED
        assert "it runs 1.0 again" in answer.reason
        await fleet.tick()
        found = await fleet.look()
        assert found.status is Status.PAUSED
        assert "not proved any more" in found.reason

    with_rollout(test)


def test_offers_of_a_finished_rollout_are_counted_when_something_happens_to_it(with_rollout):
    async def test(fleet):
        await fleet.start()
        for _ in range(3):
            await fleet.confirm(*await fleet.poll_all())
            await fleet.tick()
        await fleet.tick()
        counted = []

        def note(_connection, _cursor, statement, *_):
            if "FROM attempts" in statement:
                counted.append(statement)

        sa.event.listen(fleet.database._readers.sync_engine, "before_cursor_execute", note)
        await fleet.tick()
        assert counted == []
        fleet.now += FINISHED_LOOK_S  # silence makes no event
        await fleet.tick()
        assert counted
        await fleet.tick()
        fleet.runs[min(fleet.runs)] = "1.0"
        await fleet.poll(min(fleet.runs))
        counted.clear()
        await fleet.tick()
        assert counted
        assert (await fleet.look()).status is Status.PAUSED

    with_rollout(test)


def test_a_device_without_a_counter_that_falls_back_is_seen(with_rollout):
    async def test(fleet):
        await fleet.start()
        name, _ = await fleet.poll_all()
        await fleet.confirm(name)
        fleet.runs[name] = "1.0"
        fleet.counted = False
        assert isinstance(await fleet.poll(name), Stay)
        assert await fleet.state(name) is State.REGRESSED

    with_rollout(test)


def test_silence_is_a_failure_and_a_word_undoes_it(with_rollout):
    async def test(fleet):
        await fleet.start()
        one, other = await fleet.poll_all()
        await fleet.listen(PLAN.silent_after_s // 2)
        await fleet.poll(other)
        await fleet.listen(PLAN.silent_after_s // 2 + 1)
        assert await fleet.state(one) is State.SILENT
        assert await fleet.state(other) is State.OFFERED
        await fleet.confirm(one)
        assert await fleet.state(one) is State.CONFIRMED

    with_rollout(test)


def test_an_outage_makes_nobody_silent(with_rollout):
    """Nor does a clock that is set forward: nobody could have been heard."""

    async def test(fleet):
        await fleet.start()
        one, _ = await fleet.poll_all()
        for _ in range(3):
            fleet.now += 2 * PLAN.silent_after_s
            await fleet.tick()
        assert await fleet.state(one) is State.OFFERED
        assert (await fleet.look()).status is Status.RUNNING
        await fleet.listen(PLAN.silent_after_s - 1)
        assert await fleet.state(one) is State.OFFERED
        await fleet.listen(2)
        assert await fleet.state(one) is State.SILENT

    with_rollout(test)


@pytest.mark.parametrize("why", ["paused", "no server", "crowded", "window", None])
def test_whoever_could_not_be_offered_it_is_not_in_a_drawer(with_rollout, why):
    """One confirmed device of many proves a phase only if the others had their time."""
    plan = replace(PLAN, phases=PLAN.phases[1:])
    if why == "window":
        plan = replace(plan, windows=("Sat 03:00-03:30",))  # the days below pass at eight
    if why == "crowded":
        plan = replace(plan, max_downloads=1)

    async def test(fleet):
        await fleet.start(plan)
        if why == "paused":
            await fleet.engine.change(await fleet.look(), Act.PAUSE, "by hand", fleet.now)
        for _ in range(4):
            if why == "crowded":
                assert len(await fleet.poll_all()) == 1
            fleet.now += 1 if why == "crowded" else 86_400
            await fleet.tick(0.0 if why == "no server" else 86_400.0)
        async with fleet.database.reading() as connection:
            (record,) = (await rollouts.open_phases(connection, [1]))[1]
        assert (record.watched_s > plan.silent_after_s) is (why is None)

    with_rollout(test)


def test_soak_counts_only_what_was_watched(with_rollout):
    async def test(fleet):
        await fleet.start(
            Plan("s", "gateway", "2.0", 2, (Phase(count=2, soak_s=60), Phase(count=4)))
        )
        await fleet.confirm(*await fleet.poll_all())
        await fleet.tick()
        fleet.now += 10_000  # the clock jumps: no time passed
        await fleet.tick(3.0)
        assert (await fleet.look()).phase == 0
        for _ in range(13):
            await fleet.tick(5.0)
        assert (await fleet.look()).phase == 1

    with_rollout(test)


def test_budgets_bound_what_is_on_its_way(with_rollout):
    async def test(fleet):
        async def label(connection):
            for index, name in enumerate(sorted(fleet.runs)):
                site = {"site": "ab"[index % 2]}
                await devices.describe(connection, name, attributes=site)

        await fleet.database.write(label)
        budget = Budget("attribute.site", 1)
        plan = Plan("b", "gateway", "2.0", 2, (Phase(percent=100),), budgets=(budget,))
        await fleet.start(plan)
        first = await fleet.poll_all()
        assert len(first) == 2
        await fleet.confirm(first[0])
        assert len(await fleet.poll_all()) == 2  # one more of that site, and the one before

    with_rollout(test)


def test_who_tries_again_needs_a_place_again(with_rollout):
    async def test(fleet):
        budget = Budget("product", 1)
        plan = Plan("b", "gateway", "2.0", 2, (Phase(percent=100),), abort=(), budgets=(budget,))
        await fleet.start(plan)
        (one,) = await fleet.poll_all()
        await fleet.report(one, "failed")
        other = next(name for name in sorted(fleet.runs) if name != one)
        assert isinstance(await fleet.poll(other), Install)
        answer = await fleet.poll(one)
        assert "has to wait: 1 devices with product gateway are on their way" in answer.reason
        await fleet.confirm(other)
        assert isinstance(await fleet.poll(one), Install)
        await fleet.report(one, "failed")  # it gives up once more, and its place with it
        third = next(name for name in sorted(fleet.runs) if name not in (one, other))
        assert isinstance(await fleet.poll(third), Install)

    with_rollout(test)


def test_a_place_stays_with_a_device_that_another_rollout_has_sent_on_its_way(with_rollout):
    async def test(fleet):
        plan = Plan(
            "b", "gateway", "2.0", 2, (Phase(percent=100),), budgets=(Budget("product", 1),)
        )
        await fleet.start(plan)
        (one,) = await fleet.poll_all()
        assert await fleet.engine.change(await fleet.look(), Act.PAUSE, "", fleet.now)
        await fleet.start(replace(plan, name="c"))
        assert (await fleet.poll(one)).rollout.plan.name == "c"
        async with fleet.database.reading() as connection:
            found = await attempts.of_device(connection, one)
        older = next(offer for offer in found if offer.rollout == 1)
        assert await fleet.database.write(
            lambda connection: attempts.recall(connection, older.id, "ada", fleet.now)
        )
        other = next(name for name in sorted(fleet.runs) if name != one)
        assert "has to wait" in (await fleet.poll(other)).reason
        await fleet.confirm(one)
        assert isinstance(await fleet.poll(other), Install)

    with_rollout(test)


def test_an_aborted_rollout_gives_its_places_back(with_rollout):
    async def test(fleet):
        budget = Budget("product", 2)
        plan = Plan("b", "gateway", "2.0", 2, (Phase(percent=100),), budgets=(budget,))
        await fleet.start(plan)
        one, silent = await fleet.poll_all()
        assert await fleet.engine.change(await fleet.look(), Act.ABORT, "", fleet.now)
        await fleet.tick()
        assert isinstance(await fleet.poll(one), Stay)
        assert await fleet.state(one) is State.CANCELLED
        assert await fleet.held() == 1
        await fleet.listen(PLAN.silent_after_s + 1)
        assert await fleet.held() == 1  # it may be down
        assert isinstance(await fleet.poll(silent), Stay)
        assert await fleet.held() == 0

    with_rollout(test)


def test_a_silent_device_keeps_its_place_until_it_is_heard_of_or_given_up(with_rollout):
    async def test(fleet):
        budget = Budget("product", 2)
        plan = Plan("b", "gateway", "2.0", 2, (Phase(percent=100),), budgets=(budget,))
        await fleet.start(replace(plan, abort=()))
        one, other = await fleet.poll_all()
        await fleet.listen(plan.silent_after_s + 1)
        assert {await fleet.state(one), await fleet.state(other)} == {State.SILENT}
        third = next(name for name in sorted(fleet.runs) if name not in (one, other))
        assert "has to wait: 2 devices" in (await fleet.poll(third)).reason
        # Back, and nothing to do: it is not away.
        assert await fleet.engine.change(await fleet.look(), Act.PAUSE, "", fleet.now)
        await fleet.tick()
        assert isinstance(await fleet.poll(one), Stay)
        assert await fleet.held() == 1
        # Gone for good: an operator says so.
        async with fleet.database.reading() as connection:
            (lost,) = await attempts.of_device(connection, other)
        assert await fleet.database.write(
            lambda connection: attempts.recall(connection, lost.id, "ada", fleet.now)
        )
        assert await fleet.held() == 0
        assert await fleet.state(other) is State.CANCELLED

    with_rollout(test)


def test_what_is_installed_keeps_its_place_though_there_is_nothing_to_do(with_rollout):
    async def test(fleet):
        plan = Plan(
            "b", "gateway", "2.0", 2, (Phase(percent=100),), budgets=(Budget("product", 1),)
        )
        await fleet.start(plan)
        (one,) = await fleet.poll_all()
        await fleet.report(one, "installed")
        assert await fleet.engine.change(await fleet.look(), Act.PAUSE, "", fleet.now)
        await fleet.tick()
        assert isinstance(await fleet.poll(one), Stay)  # it waits for its window to reboot
        assert await fleet.held() == 1

    with_rollout(test)


def test_a_phase_opened_by_hand_accepts_what_has_regressed(with_rollout):
    async def test(fleet):
        await fleet.start(replace(PLAN, phases=(Phase(count=2), Phase(percent=100)), abort=()))
        one, other = await fleet.poll_all()
        await fleet.confirm(one, other)
        await fleet.report(one, "fell_back")
        await fleet.tick()
        assert (await fleet.look()).phase == 0
        drawn = await draw_phase(fleet.database, await fleet.look())
        rollout = await fleet.look()

        await fleet.database.write(
            lambda c: open_phase_as(c, rollout, drawn, "ada", fleet.now, by_hand=True)
        )
        await fleet.tick()
        assert (await fleet.look()).status is Status.RUNNING

    with_rollout(test)


def test_a_confirmed_device_runs_the_release_before_it_polls_again(with_rollout):
    async def test(fleet):
        await fleet.start()
        one, *_ = await fleet.poll_all()
        await fleet.report(one, "installed")
        await fleet.report(one, "confirmed")
        async with fleet.database.reading() as connection:
            found = await devices.find(connection, one)
        assert (found.release, found.counter, found.booted_root) == ("2.0", 2, ROOTS["2.0"])

    with_rollout(test)


def test_devices_that_are_removed_still_count(with_rollout):
    async def test(fleet):
        phases = (Phase(count=2, success=SuccessRule(percent=50)), Phase(count=4))
        plan = Plan("b", "gateway", "2.0", 2, phases, abort=(AbortRule(count=2),))
        await fleet.start(plan)
        good, bad = await fleet.poll_all()
        await fleet.confirm(good)
        await fleet.report(bad, "fell_back")
        for name in (good, bad):
            del fleet.runs[name]
            assert await fleet.database.write(lambda c, name=name: devices.remove(c, name))
        await fleet.tick()
        assert (await fleet.look()).phase == 1, "the confirmed one has proved the first phase"
        more = await fleet.poll_all()
        assert len(more) == 2, "four in all, two of them removed"
        await fleet.report(more[0], "fell_back")
        async with fleet.database.reading() as connection:
            counted = await tallies.of_rollout(connection, 1)
        assert counted[0] == Tally(2, 1, {FailureClass.BOOT: 1})
        assert counted[1] == Tally(2, 0, {FailureClass.BOOT: 1})

    with_rollout(test)


def test_who_is_removed_on_its_way_counts_as_silent(with_rollout):
    async def test(fleet):
        plan = replace(PLAN, phases=(Phase(count=2), Phase(percent=100)), abort=())
        await fleet.start(plan)
        one, bricked = await fleet.poll_all()
        await fleet.confirm(one)
        await fleet.report(bricked, "installed")
        await fleet.database.write(lambda c: devices.remove(c, bricked))
        await fleet.tick()
        assert (await fleet.look()).phase == 0
        async with fleet.database.reading() as connection:
            counted = await tallies.of_rollout(connection, 1)
        assert counted[0] == Tally(2, 1, {FailureClass.SILENT: 1})

    with_rollout(test)


def test_another_rollout_of_the_release_calls_nothing_back(with_rollout):
    async def test(fleet):
        await fleet.start(replace(PLAN, phases=(Phase(percent=100),)))
        told = await fleet.poll_all()
        await fleet.report(told[0], "progress")
        await fleet.start(replace(PLAN, name="beside", phases=(Phase(percent=100),), beside=True))
        assert (await fleet.poll(told[0])).rollout.plan.name == PLAN.name
        await fleet.add(1, first=50)
        assert (await fleet.poll("d050")).rollout.plan.name == "beside"

    with_rollout(test)


def test_a_device_falls_back_from_the_release_that_it_came_from(with_rollout):
    """Not from all that it ever ran: one that is flashed anew does not pause a year of rollouts."""

    async def test(fleet):
        await fleet.start(replace(PLAN, phases=(Phase(percent=100),), abort=()))
        (one, *_) = await fleet.poll_all()
        await fleet.confirm(one)
        newer = replace(PLAN, name="newer", release="3.0", counter=3, phases=(Phase(percent=100),))
        await fleet.start(replace(newer, abort=(), proof=Proof.REPORT))
        async with fleet.database.reading() as connection:
            device = await devices.find(connection, one)
        await hear_poll(
            fleet.database,
            fleet.board.view,
            CATALOG,
            replace(device, release="1.0", counter=1).facts(),
            {1: State.CONFIRMED, 2: State.CONFIRMED},
            {},
            fleet.now,
            trial=False,
        )
        assert await fleet.state(one) is State.CONFIRMED

    with_rollout(test)


def test_who_waits_for_room_writes_nothing(with_rollout):
    async def test(fleet):
        plan = replace(
            PLAN,
            phases=(Phase(percent=100),),
            budgets=(Budget("product", 3),),
            max_downloads=2,
        )
        await fleet.start(plan)
        first = await fleet.poll_all()
        assert len(first) == 2
        write = fleet.database.write

        async def refuse(act):
            raise AssertionError("it waits, and writes")

        fleet.database.write = refuse
        others = [one for one in sorted(fleet.runs) if one not in first]
        assert "2 devices are downloading" in (await fleet.ask(others[0])).reason
        fleet.database.write = write
        await fleet.report(first[0], "installed")
        assert isinstance(await fleet.poll(others[0]), Install)
        await fleet.report(others[0], "installed")
        fleet.database.write = refuse
        answer = await fleet.ask(others[1])
        assert "3 devices with product gateway are on their way" in answer.reason
        fleet.database.write = write

    with_rollout(test)


def test_room_that_members_have_left_is_closed_when_the_next_phase_is_drawn(with_rollout):
    async def test(fleet):
        phases = (Phase(count=2, success=SuccessRule(count=1)), Phase(count=3))
        await fleet.start(Plan("b", "gateway", "2.0", 2, phases, abort=()))
        rollout = await fleet.look()
        first, other = (
            one
            for one in sorted(fleet.runs)
            if phase_of(rollout.plan, rollout.opened, Facts(one, "gateway")) == 0
        )
        assert isinstance(await fleet.poll(first), Install)
        await fleet.confirm(first)
        del fleet.runs[other]
        await fleet.database.write(lambda c: devices.remove(c, other))
        await fleet.tick()
        assert [one.limit for one in (await fleet.look()).opened] == [1, 2]
        # Whoever joins below the first line counts in the second phase, or waits.
        await fleet.add(200, first=100)
        assert len(await fleet.poll_all()) == 2, "three in all"

    with_rollout(test)


def test_a_line_whose_first_rollout_another_server_made_is_offered_nothing_else(with_rollout):
    async def test(fleet):
        (one, *_) = fleet.runs
        assert isinstance(await fleet.poll(one), Install)  # the newest: there is no rollout
        plan = replace(PLAN, start_at=fleet.now + 1000)
        await fleet.database.write(
            lambda connection: rollouts.create(connection, plan, Status.SCHEDULED, fleet.now)
        )
        assert "first rollout" in (await fleet.poll(one)).reason  # its board has not read of it

    with_rollout(test)


def test_an_answer_that_is_slow_does_not_undo_a_pause_elsewhere(with_rollout):
    async def test(fleet):
        await fleet.start()
        one, _ = await fleet.poll_all()
        other = Engine(fleet.database, Board(fleet.database), lambda: fleet.now, "two")
        assert await other.change(await fleet.look(), Act.PAUSE, "", fleet.now)
        answer = await fleet.poll(one)  # this server has not heard of it
        assert "the rollout does not offer now" in answer.reason

    with_rollout(test)


def test_a_duty_taken_by_a_clock_that_was_ahead_does_not_last(with_rollout):
    async def test(fleet):
        ahead = fleet.now + 1_000_000
        take = leases.take
        assert await fleet.database.write(lambda c: take(c, "x", "one", ahead, 15)) == 1
        assert await fleet.database.write(lambda c: take(c, "x", "two", fleet.now, 15)) == 2
        assert await fleet.database.write(lambda c: take(c, "x", "one", fleet.now, 15)) is None

    with_rollout(test)


def test_two_servers_advance_once(with_rollout):
    async def test(fleet):
        await fleet.start()
        other = Engine(fleet.database, Board(fleet.database), lambda: fleet.now, "two")
        await fleet.confirm(*await fleet.poll_all())
        await asyncio.gather(fleet.tick(), other.tick(1.0))
        assert (await fleet.look()).phase == 1
        # Even if both believe that the duty is theirs.
        rollout = await fleet.look()
        opened = await asyncio.gather(
            fleet.engine.open_next(rollout, "one", fleet.now),
            other.open_next(rollout, "two", fleet.now),
        )
        assert sorted(opened) == [False, True]

    with_rollout(test)


def test_a_full_phase_offers_to_nobody_else(with_rollout):
    """Whatever a server believes, the database counts."""

    async def test(fleet):
        await fleet.start()
        first = await fleet.poll_all()
        stranger = next(name for name in sorted(fleet.runs) if name not in first)
        wanted = grants.Request(1, (0,), Facts(stranger, "gateway"), "2.0")
        with pytest.raises(grants.NoRoom, match="phase 1 has offered"):
            await fleet.database.write(lambda c: grants.grant(c, wanted, fleet.now))
        async with fleet.database.reading() as connection:
            assert await attempts.of_device(connection, stranger) == ()

    with_rollout(test)


def test_only_a_release_that_was_offered_or_is_published_is_quarantined(with_rollout):
    async def test(fleet):
        await fleet.start()
        (name, _) = await fleet.poll_all()
        for number, (release, catalog) in enumerate(
            (("invented", CATALOG), ("1.0", None), ("1.0", CATALOG), ("2.0", None))
        ):
            report = Report(
                name, f"q{number}", "fell_back", release, 2, None, "why", "{}", 1, number
            )
            assert await hear_report(fleet.database, catalog, report)
        async with fleet.database.reading() as connection:
            kept = await quarantines.list_of_device(connection, name)
        assert {one.release: one.since for one in kept} == {"1.0": 2, "2.0": 3}

    with_rollout(test)
