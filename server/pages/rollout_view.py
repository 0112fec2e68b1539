"""A rollout as its page shows it: values in words and figures. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipstream.server.pages.bars import Segment, bar, tally_bar
from slipstream.server.pages.words import (
    FAILURES,
    STATUSES,
    Mark,
    count_words,
    phase_words,
    rule_words,
    share_words,
    span_words,
    success_words,
)
from slipstream.server.rollout.judge import (
    PhaseRecord,
    Tally,
    fires,
    judge,
    margin,
    needed,
    phase_rules,
    unmet,
)
from slipstream.server.rollout.plan import FailureClass, Plan
from slipstream.server.rollout.record import TRANSITIONS, Act, Rollout, Status
from slipstream.server.store.attempts import Traffic
from slipstream.server.store.rollouts import OpenPhase
from slipstream.server.store.tallies import records


@dataclass(frozen=True, slots=True)
class Card:
    """A rollout in a list."""

    id: int
    name: str
    product: str
    channel: str
    release: str
    status: str
    mark: Mark
    stands: str  # why it is in that state, or what it waits for
    phase: str  # "phase 2 of 3: 10 %"
    bar: tuple[Segment, ...]
    bar_words: str
    offered: int
    confirmed: int
    failed: int
    in_flight: int
    created_at: int
    moving: bool  # it offers, or may again


@dataclass(frozen=True, slots=True)
class PhaseLine:
    """A phase of a rollout, open or not."""

    number: int
    takes: str
    state: str
    mark: Mark
    limit: str
    tally: Tally
    bar: tuple[Segment, ...]
    bar_words: str
    rule: str
    opened_at: int | None


@dataclass(frozen=True, slots=True)
class ClassLine:
    """Failures of one class."""

    name: str
    failures: int
    share: str
    bar: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class RuleLine:
    """An abort rule and how far it is from firing in the phase where it is nearest."""

    rule: str
    phase: int
    margin: str  # devices on their way that may still fail
    words: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Live:
    """What the live view shows beside the card."""

    card: Card
    phases: tuple[PhaseLine, ...]
    classes: tuple[ClassLine, ...]
    rules: tuple[RuleLine, ...]
    left: str  # time left in this phase, or why there is no estimate
    left_is_known: bool
    left_note: str
    traffic: Traffic
    acts: tuple[Act, ...]  # that its status allows to a person
    can_open_next: bool


_CLOSE = 2  # so few that may still fail are a warning
_BY_HAND = (Act.START, Act.PAUSE, Act.RESUME, Act.ABORT, Act.APPROVE, Act.DENY)


def make_card(rollout: Rollout, opened: Sequence[OpenPhase], counted: Mapping[int, Tally]) -> Card:
    """A rollout in a list. `counted` by phase."""
    plan, whole = rollout.plan, _sum(counted)
    word, mark = STATUSES[rollout.status]
    members = max(sum(one.opening.members for one in opened), whole.offered)
    number = rollout.phase + 1
    phase = "not started"
    if number:
        takes = phase_words(plan.phases[rollout.phase])
        phase = f"phase {number} of {len(plan.phases)}: {takes}"
    return Card(
        id=rollout.id,
        name=plan.name,
        product=plan.product,
        channel=plan.channel,
        release=plan.release,
        status=word,
        mark=mark,
        stands=_stands(rollout, records(opened, counted)) or phase,
        phase=phase,
        bar=tally_bar(whole, members),
        bar_words=_bar_words(whole, members),
        offered=whole.offered,
        confirmed=whole.confirmed,
        failed=whole.failed,
        in_flight=whole.in_flight,
        created_at=rollout.created_at,
        moving=rollout.status in {Status.RUNNING, Status.PAUSED, Status.SCHEDULED, Status.WAITING},
    )


def make_live(
    rollout: Rollout,
    opened: Sequence[OpenPhase],
    counted: Mapping[int, Tally],
    traffic: Traffic,
    now: int,
) -> Live:
    """The live view. `traffic`: what its devices say that they fetched."""
    plan, found = rollout.plan, records(opened, counted)
    left, known, note = _time_left(rollout, found, now)
    acts = tuple(act for act in _BY_HAND if (rollout.status, act) in TRANSITIONS)
    return Live(
        card=make_card(rollout, opened, counted),
        phases=tuple(_phase(rollout, index, opened, found) for index in range(len(plan.phases))),
        classes=_classes(_sum(counted)),
        rules=tuple(_rules(plan, found)),
        left=left,
        left_is_known=known,
        left_note=note,
        traffic=traffic,
        acts=acts,
        can_open_next=rollout.status is Status.RUNNING and len(opened) < len(plan.phases),
    )


def estimate_left_s(plan: Plan, index: int, record: PhaseRecord, now: int) -> int | None:
    """Seconds until a phase is proved and soaked, at its pace so far; None while there is no pace.

    The pace is confirmed devices by the time since the phase opened: slow at the beginning, when
    devices still download, so that the first estimates are too long.
    """
    soak = max(0, plan.phases[index].soak_s - record.soaked_s)
    missing = needed(plan, index, record) - record.tally.confirmed
    if missing <= 0:
        return soak
    if not record.tally.confirmed or now <= record.opened_at:
        return None
    return round(missing * (now - record.opened_at) / record.tally.confirmed) + soak


def _stands(rollout: Rollout, found: Sequence[PhaseRecord]) -> str:
    """Of a rollout that runs: what it waits for; of any other: why it does not."""
    if rollout.status is Status.RUNNING and found:
        return judge(rollout.plan, found).reason
    return rollout.reason


def _time_left(rollout: Rollout, found: Sequence[PhaseRecord], now: int) -> tuple[str, bool, str]:
    match rollout.status:
        case Status.RUNNING if found:
            pass
        case Status.FINISHED:
            return "done", True, "Every phase has proved itself."
        case _:
            return "–", False, f"No estimate: it is {STATUSES[rollout.status][0].lower()}."
    index, record = len(found) - 1, found[-1]
    left = estimate_left_s(rollout.plan, index, record, now)
    if left is None:
        return "–", False, "No estimate before the first device of this phase is confirmed."
    more = len(rollout.plan.phases) - len(found)
    note = "An estimate for this phase, at its pace so far, soak included."
    if more:
        note += f" {count_words(more, 'phase')} after it."
    return f"≈ {span_words(_rounded(left))}", True, note


def _rounded(span_s: int) -> int:
    """An estimate says no more than it knows: whole days, hours, ten minutes or minutes."""
    for above, unit in ((3 * 86_400, 86_400), (6 * 3600, 3600), (3600, 600), (60, 60)):
        if span_s >= above:
            return -(-span_s // unit) * unit
    return span_s


def _phase(
    rollout: Rollout, index: int, opened: Sequence[OpenPhase], found: Sequence[PhaseRecord]
) -> PhaseLine:
    phase = rollout.plan.phases[index]
    rule = success_words(phase.success)
    if phase.soak_s:
        rule += f", then {span_words(phase.soak_s)} of soak"
    if index >= len(opened):
        return PhaseLine(
            index + 1,
            phase_words(phase),
            "Not open yet",
            Mark.NONE,
            "",
            Tally(),
            (),
            "not open yet",
            rule,
            None,
        )
    one, record = opened[index], found[index]
    members = one.opening.members
    limit = "all that match" if one.opening.limit is None else f"{one.opening.limit:,}"
    state, mark = "Open", Mark.GOING
    if index < len(opened) - 1 or rollout.status is Status.FINISHED:
        # Behind the newest phase: somebody may have opened that by hand, or a device fell back since.
        is_proved = unmet(rollout.plan, index, record) is None
        state, mark = ("Proved", Mark.GOOD) if is_proved else ("Not proved", Mark.WARN)
    elif record.proved and phase.soak_s > record.soaked_s:
        state = f"Soaks: {span_words(phase.soak_s - record.soaked_s)} left"
    elif record.proved:
        state, mark = "Proved", Mark.GOOD
    elif rollout.status in {Status.PAUSED, Status.ABORTED}:
        state, mark = "Halted", STATUSES[rollout.status][1]
    return PhaseLine(
        index + 1,
        phase_words(phase),
        state,
        mark,
        limit,
        record.tally,
        tally_bar(record.tally, members),
        _bar_words(record.tally, max(members, record.tally.offered)),
        rule,
        one.opened_at,
    )


def _classes(whole: Tally) -> tuple[ClassLine, ...]:
    most = max(whole.failures.values(), default=0)
    found = sorted(whole.failures.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        ClassLine(
            FAILURES[kind],
            number,
            share_words(number, whole.settled),
            bar([("silent" if kind is FailureClass.SILENT else "bad", number)], most),
        )
        for kind, number in found
        if number
    )


def _rules(plan: Plan, found: Sequence[PhaseRecord]) -> list[RuleLine]:
    """Every rule once, in the open phase where the fewest failures are left."""
    nearest: dict[str, RuleLine] = {}
    for index, record in enumerate(found):
        for rule in phase_rules(plan, plan.phases[index]):
            name, counted = rule_words(rule), record.counted
            fired = fires(rule, counted)
            if fired is not None:
                line = RuleLine(name, index + 1, "0", f"Fired: {fired}", Mark.BAD)
            else:
                line = _margin(name, index, margin(rule, counted), counted.in_flight)
            before = nearest.get(name)
            if before is None or _rank(line) <= _rank(before):
                nearest[name] = line
    return list(nearest.values())


def _margin(name: str, index: int, more: int, in_flight: int) -> RuleLine:
    if not in_flight:
        return RuleLine(name, index + 1, "–", "nothing is on its way", Mark.NONE)
    if more >= in_flight:
        words = f"cannot fire, even if all {in_flight:,} on their way fail"
        return RuleLine(name, index + 1, f"{more:,}", words, Mark.GOOD)
    mark = Mark.WARN if more <= _CLOSE else Mark.GOING
    words = f"{more:,} of {in_flight:,} on their way may fail; one more fires it"
    return RuleLine(name, index + 1, f"{more:,}", words, mark)


def _rank(line: RuleLine) -> int:
    return (Mark.BAD, Mark.WARN, Mark.GOING, Mark.GOOD, Mark.NONE).index(line.mark)


def _sum(counted: Mapping[int, Tally]) -> Tally:
    failures: dict[FailureClass, int] = {}
    for tally in counted.values():
        for kind, number in tally.failures.items():
            failures[kind] = failures.get(kind, 0) + number
    return Tally(
        sum(one.offered for one in counted.values()),
        sum(one.confirmed for one in counted.values()),
        failures,
    )


def _bar_words(tally: Tally, whole: int) -> str:
    return (
        f"{tally.confirmed:,} confirmed, {tally.failed:,} failed, {tally.in_flight:,} on their way, "
        f"of {whole:,}"
    )
