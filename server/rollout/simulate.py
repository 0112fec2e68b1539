"""A rollout on a fleet that is not there: discrete events, and the very engine that serves devices.

Who is offered what is decided by offer.decide, phases are opened by order.open_phase, what devices
say moves offers by track.step, and judge.judge advances, pauses and finishes. Only what the store
does is done here: an offer is granted while its phase, the budgets and the downloads have room.

Pure, and deterministic: the same plan, fleet, behaviour and random numbers give the same outcome.
A device polls only when something can have changed for it; in between its polls would be answered
as the last one was. Devices that wait for a budget's room are asked in the order of their next poll.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import assert_never

from slipstream.delta.limits import CURVE_POINTS_MAX, SIMULATED_S_MAX
from slipstream.server.rollout.behaviour import Behaviour, Fate, draw_fates
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.judge import (
    Advance,
    Finish,
    Halt,
    PhaseRecord,
    Tally,
    Wait,
    judge,
)
from slipstream.server.rollout.offer import Install, Standing, decide
from slipstream.server.rollout.order import open_phase, phase_of
from slipstream.server.rollout.outcome import Outcome, PhaseOutcome, Point, Stop
from slipstream.server.rollout.plan import FailureClass, Halting, Plan
from slipstream.server.rollout.record import OFFERING, Act, Rollout, Status
from slipstream.server.rollout.record import step as step_rollout
from slipstream.server.rollout.rsql import matches
from slipstream.server.rollout.track import AWAY, IN_FLIGHT, Event, State, class_of
from slipstream.server.rollout.track import step as step_offer

BEGIN = 1_767_571_200  # Monday, 5 January 2026, 00:00 UTC: where the plan names no start
_ID = 1  # of the only rollout there is
_FETCHING = frozenset({State.OFFERED, State.FETCHING})

# What a device holds while it is on its way: ("", "") a download, (label, value) a place in a budget.
_Room = tuple[str, str]
_DOWNLOAD: _Room = ("", "")


def simulate(
    plan: Plan,
    fleet: Iterable[Facts],
    behaviour: Behaviour,
    random: Random,
    *,
    until_s: int = SIMULATED_S_MAX,
) -> Outcome:
    """What becomes of a rollout on `fleet`, from its start until nothing more can happen.

    A plan that needs approval is approved. One that stops is not resumed: what devices that were
    on their way come to is told all the same.
    """
    devices = [one for one in fleet if _may_take(plan, one)]
    run = _Run(plan, devices, draw_fates(behaviour, devices, random), behaviour.poll_interval_s)
    run.play(until_s)
    return run.outcome()


def _may_take(plan: Plan, device: Facts) -> bool:
    if (device.product, device.channel) != (plan.product, plan.channel):
        return False
    runs_it = device.counter is not None and device.counter >= plan.counter
    return not runs_it and device.release != plan.release and matches(plan.condition, device)


class _Phase:
    """An open phase, counting."""

    def __init__(self, opened_at: int) -> None:
        self.opened_at = opened_at
        self.proved_at: int | None = None
        self.offered = 0
        self.confirmed = 0
        self.failures: Counter[FailureClass] = Counter()

    @property
    def tally(self) -> Tally:
        return Tally(self.offered, self.confirmed, {k: n for k, n in self.failures.items() if n})


class _Run:
    """One simulation. Devices are known by their index; times are seconds since 1970."""

    def __init__(
        self, plan: Plan, devices: Sequence[Facts], fates: Sequence[Fate], interval_s: int
    ) -> None:
        self.plan, self.devices, self.fates, self.interval_s = plan, devices, fates, interval_s
        self.begin = self.now = plan.start_at if plan.start_at is not None else BEGIN
        self.rollout = Rollout(_ID, plan, Status.SCHEDULED, (), 1, self.begin)
        self.phases: list[_Phase] = []
        self.stop: Stop | None = None
        self.finished_at: int | None = None
        self.curve = [Point(0, 0, 0, 0)]
        # Events: time, urgency (decisions come last in a second), number (first come, first served).
        self.events: list[tuple[int, int, int, Callable[[int], None], int]] = []
        self.pushed = 0
        self.deciding = False
        # Of devices that were offered the release.
        self.state: dict[int, State] = {}
        self.phase: dict[int, int] = {}
        self.offered: set[str] = set()
        self.called: set[int] = set()  # a poll is due
        # Of budgets and downloads.
        self.held: Counter[_Room] = Counter()
        self.held_max: Counter[_Room] = Counter()
        self.on_their_way = self.on_their_way_max = 0
        self.parked: dict[_Room, list[tuple[int, int]]] = defaultdict(list)  # (poll offset, device)
        self.woken: dict[int, _Room] = {}  # a device that is asked because this has room
        self.asked: set[_Room] = set()  # of which one device is woken

    def play(self, until_s: int) -> None:
        self._act(Act.START, "")
        self._open_phase()
        while self.events and self.events[0][0] <= self.begin + until_s:
            at, _, _, what, device = heappop(self.events)
            if at > self.now:
                self._draw()
                self.now = at
            what(device)
        self._draw()

    # --- what happens

    def _open_phase(self) -> None:
        waiting = [one for one in self.devices if one.id not in self.offered]
        opened = self.rollout.opened
        opening = open_phase(self.plan, opened, waiting, self.offered)
        self.rollout = replace(self.rollout, opened=(*opened, opening))
        self.phases.append(_Phase(self.now))
        for index, device in enumerate(self.devices):
            if index in self.state or index in self.called:
                continue
            if phase_of(self.plan, self.rollout.opened, device) is not None:
                self._call(index, self.now)
        self._decide_at(self.now)
        self._decide_at(self.now + self.plan.silent_after_s)  # what is reached may change then

    def _poll(self, device: int) -> None:
        self.called.discard(device)
        room = self.woken.pop(device, None)
        if room is not None:
            self.asked.discard(room)
        if self.rollout.status not in OFFERING:
            return
        answer = decide(Standing(self.devices[device]), [self.rollout], (), self.now)
        if isinstance(answer, Install):
            self._grant(device, answer.phases)
        elif (opening := self.plan.schedule.next_after(_moment(self.now))) is not None:
            self._call(device, int(opening.begin.timestamp()))
        if room is not None:
            self._wake(room)

    def _grant(self, device: int, phases: Sequence[int]) -> None:
        limits = [(one, self.rollout.opened[one].limit) for one in phases]
        free = (one for one, limit in limits if limit is None or self.phases[one].offered < limit)
        phase = next(free, None)
        if phase is None:
            return  # full: those who joined late wait for the next one
        rooms = self._rooms(device)
        for room, most in rooms:
            if self.held[room] >= most:
                insort(self.parked[room], (self.fates[device].poll_offset_s, device))
                self.called.add(device)
                return
        for room, _ in rooms:
            self.held[room] += 1
            self.held_max[room] = max(self.held_max[room], self.held[room])
        self.on_their_way += 1
        self.on_their_way_max = max(self.on_their_way_max, self.on_their_way)
        self.state[device], self.phase[device] = State.OFFERED, phase
        self.offered.add(self.devices[device].id)
        self.phases[phase].offered += 1
        self._follow(device)

    def _follow(self, device: int) -> None:
        """Push everything that the device will say."""
        fate, failure = self.fates[device], self.fates[device].failure
        self._hear(device, Event.FETCHING)
        fetched = self.now + fate.fetch_s
        if failure in (FailureClass.FETCH, FailureClass.REJECTED, FailureClass.DEVICE):
            self._says(device, Event.FAILED, fetched)
            return
        self._says(device, Event.INSTALLED, fetched)
        booted = fetched + fate.boot_s
        match failure:
            case FailureClass.SILENT:
                self._says(device, Event.TIMED_OUT, fetched + self.plan.silent_after_s)
            case FailureClass.BOOT | FailureClass.ROOT:
                self._says(device, Event.FELL_BACK, booted + fate.boot_s)
            case FailureClass.REGRESSED:
                self._says(device, Event.CONFIRMED, booted)
                self._says(device, Event.FELL_BACK, booted + fate.regress_s)
            case _:
                self._says(device, Event.CONFIRMED, booted)

    def _says(self, device: int, event: Event, at: int) -> None:
        self._push(at, partial(self._hear, event=event), device)

    def _hear(self, device: int, event: Event) -> None:
        before = self.state[device]
        after = self.state[device] = step_offer(before, event)
        phase = self.phases[self.phase[device]]
        said = self.fates[device].failure
        for state, count in ((before, -1), (after, 1)):
            if state is State.CONFIRMED:
                phase.confirmed += count
            elif (failure := class_of(state, said)) is not None:
                phase.failures[failure] += count
        if after in IN_FLIGHT and (before in _FETCHING) == (after in _FETCHING):
            return
        if before in IN_FLIGHT and after not in IN_FLIGHT:
            self.on_their_way -= 1
        for room, _ in self._rooms(device):
            held_in = _FETCHING if room == _DOWNLOAD else AWAY
            if before in held_in and after not in held_in:
                self.held[room] -= 1
                self._wake(room)
        if after not in IN_FLIGHT:
            self._decide_at(self.now)

    # --- what is decided

    def _decide(self, _: int) -> None:
        self.deciding = False
        status = self.rollout.status
        if status not in OFFERING:
            return
        records = [
            PhaseRecord(
                opening.members,
                phase.opened_at,
                phase.proved_at is not None,
                0 if phase.proved_at is None else self.now - phase.proved_at,
                phase.tally,
                watched_s=self.now - phase.opened_at,
            )
            for opening, phase in zip(self.rollout.opened, self.phases, strict=True)
        ]
        verdict = judge(self.plan, records, finished=status is Status.FINISHED)
        newest = self.phases[-1]
        match verdict:
            case Wait(reason, proved):
                self.rollout = replace(self.rollout, reason=reason)
                if not proved:
                    newest.proved_at = None
                elif newest.proved_at is None:
                    newest.proved_at = self.now
                    self._decide_at(self.now + self.plan.phases[len(self.phases) - 1].soak_s)
            case Advance():
                newest.proved_at = self.now if newest.proved_at is None else newest.proved_at
                self._open_phase()
            case Finish(reason):
                newest.proved_at = self.now if newest.proved_at is None else newest.proved_at
                if status is Status.RUNNING:
                    self._act(Act.FINISH, reason)
                    self.finished_at = self.now
            case Halt():
                self._halt(verdict)
            case _:
                assert_never(verdict)

    def _halt(self, verdict: Halt) -> None:
        now = self._count()
        self.stop = Stop(
            now.at_s,
            verdict.halting,
            verdict.phase,
            verdict.reason,
            verdict.rule,
            now.offered,
            now.confirmed,
            now.failed,
        )
        self._act(Act.PAUSE if verdict.halting is Halting.PAUSE else Act.ABORT, verdict.reason)

    def _act(self, act: Act, reason: str) -> None:
        status = step_rollout(self.rollout.status, act)
        self.rollout = replace(self.rollout, status=status, reason=reason)

    # --- when it happens

    def _push(self, at: int, what: Callable[[int], None], device: int, urgency: int = 0) -> None:
        self.pushed += 1
        heappush(self.events, (at, urgency, self.pushed, what, device))

    def _decide_at(self, at: int) -> None:
        if at > self.now:
            self._push(at, self._decide, 0, 1)
        elif not self.deciding:
            self.deciding = True
            self._push(at, self._decide, 0, 1)

    def _call(self, device: int, at: int) -> None:
        """The device's first poll at `at` or later."""
        fate = self.fates[device]
        at = max(at, self.begin + fate.online_s)
        self.called.add(device)
        self._push(at + (fate.poll_offset_s - at) % self.interval_s, self._poll, device)

    def _rooms(self, device: int) -> list[tuple[_Room, int]]:
        """What a device on its way holds, and how many may hold it at once."""
        facts = self.devices[device]
        rooms = [
            ((one.label, facts.label(one.label)), one.max_unavailable) for one in self.plan.budgets
        ]
        most = self.plan.max_downloads
        return [*rooms, (_DOWNLOAD, len(self.devices) if most is None else most)]

    def _wake(self, room: _Room) -> None:
        """Ask the parked device whose poll comes next, if there is room and none is asked yet."""
        parked = self.parked.get(room)
        if not parked or room in self.asked or self.rollout.status not in OFFERING:
            return
        place = bisect_left(parked, (self.now % self.interval_s, -1)) % len(parked)
        _, device = parked[place]
        if any(self.held[one] >= most for one, most in self._rooms(device) if one == room):
            return
        del parked[place]
        self.asked.add(room)
        self.woken[device] = room
        self._call(device, self.now)

    # --- what is told

    def _count(self) -> Point:
        return Point(
            self.now - self.begin,
            sum(one.offered for one in self.phases),
            sum(one.confirmed for one in self.phases),
            sum(one.failures.total() for one in self.phases),
        )

    def _draw(self) -> None:
        point, last = self._count(), self.curve[-1]
        if replace(point, at_s=last.at_s) != last:
            self.curve.append(point)

    def outcome(self) -> Outcome:
        point, failures = self._count(), Counter[FailureClass]()
        for one in self.phases:
            failures.update(one.failures)
        return Outcome(
            self.plan.name,
            self.plan.release,
            self.begin,
            self.curve[-1].at_s,
            self.rollout.status,
            self.rollout.reason,
            len(self.devices),
            tuple(
                PhaseOutcome(
                    str(self.plan.phases[index]),
                    opening.members,
                    opening.limit,
                    phase.opened_at - self.begin,
                    None if phase.proved_at is None else phase.proved_at - self.begin,
                    phase.tally,
                )
                for index, (opening, phase) in enumerate(
                    zip(self.rollout.opened, self.phases, strict=True)
                )
            ),
            tuple(str(one) for one in self.plan.phases),
            self.stop,
            None if self.finished_at is None else self.finished_at - self.begin,
            point.offered,
            point.confirmed,
            {one: count for one, count in failures.items() if count},
            self.held_max[_DOWNLOAD],
            self.on_their_way_max,
            _thinned(self.curve),
        )


def _moment(now: int) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def _thinned(curve: Sequence[Point]) -> tuple[Point, ...]:
    """At most CURVE_POINTS_MAX of the points, first and last among them, evenly in number."""
    count = min(len(curve), CURVE_POINTS_MAX)
    if count < 2:
        return tuple(curve)
    return tuple(curve[index * (len(curve) - 1) // (count - 1)] for index in range(count))
