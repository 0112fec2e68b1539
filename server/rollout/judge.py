"""When a phase has proved itself, and when a rollout must stop. Pure.

Called with everything that is known, as often as one likes: the same tallies give the same
verdict. Whoever carries it out compares and swaps (store/rollouts.py), so that two servers that
reach one verdict advance once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from slipstream.server.rollout.plan import AbortRule, FailureClass, Halting, Phase, Plan


@dataclass(frozen=True, slots=True)
class Tally:
    """The offers of one phase, counted by what became of them."""

    offered: int = 0  # all of them, however they ended, but for those taken back
    confirmed: int = 0
    failures: Mapping[FailureClass, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def settled(self) -> int:
        """Offers that came to an end: what percentages of failures are of."""
        return self.confirmed + self.failed

    @property
    def in_flight(self) -> int:
        return self.offered - self.settled


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """An open phase: what it was when it opened, and what has happened since."""

    members: int
    opened_at: int
    proved: bool  # its success rule was met when it was last looked at
    soaked_s: int  # seconds since then that a server saw pass
    tally: Tally
    forgiven: Mapping[FailureClass, int] = field(default_factory=dict)  # when it was resumed
    watched_s: int = 0  # seconds in which the release was offered, and a server saw it

    @property
    def counted(self) -> Tally:
        """What abort rules look at: without the failures that somebody has seen and accepted."""
        left = {
            kind: max(0, number - self.forgiven.get(kind, 0))
            for kind, number in self.tally.failures.items()
        }
        gone = self.tally.failed - sum(left.values())
        return Tally(self.tally.offered - gone, self.tally.confirmed, left)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to decide yet. `proved`: the success rule is met and the phase soaks."""

    reason: str
    proved: bool = False


@dataclass(frozen=True, slots=True)
class Advance:
    """Open the next phase."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The last phase has proved itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop offering: a rule fired, or a phase that was proved is not any more."""

    halting: Halting
    phase: int
    reason: str
    rule: AbortRule | None = None  # the one that fired


Verdict = Wait | Advance | Finish | Halt


def judge(
    plan: Plan,
    opened: Sequence[PhaseRecord],
    *,
    finished: bool = False,
    paused: bool = False,
) -> Verdict:
    """What shall happen to a rollout whose phases `opened` are open, at least one.

    It is running, or `finished`: then its last phase is one that was proved, too. Or `paused`:
    devices that have begun go on and fail, so that a rule may still abort; nothing else moves it.
    A rule that aborts goes before one that pauses.
    """
    halts = [
        Halt(rule.action, index, f"phase {index + 1}: {words}", rule)
        for index, record in enumerate(opened)
        for rule in phase_rules(plan, plan.phases[index])
        if (words := fires(rule, record.counted)) is not None
    ]
    for halt in halts:
        if halt.halting is Halting.ABORT:
            return halt
    if paused:
        return Wait("it is paused")
    if halts:
        return halts[0]
    for index, record in enumerate(opened if finished else opened[:-1]):
        missing = unmet(plan, index, record)
        # Not where devices that came late are merely on their way, or somebody has accepted it.
        regressed = record.counted.failures.get(FailureClass.REGRESSED)
        if missing is not None and regressed and unmet(plan, index, _unregressed(record)) is None:
            return Halt(
                Halting.PAUSE, index, f"phase {index + 1} is not proved any more: {missing}"
            )
    index, record = len(opened) - 1, opened[-1]
    missing = unmet(plan, index, record)
    if missing is not None:
        return Wait(missing)
    phase = plan.phases[index]
    if record.soaked_s < phase.soak_s:
        left = phase.soak_s - record.soaked_s
        return Wait(f"phase {index + 1} is proved and soaks for {left} s more", proved=True)
    words = f"phase {index + 1}: {_proof(record)}"
    return Finish(words) if len(opened) == len(plan.phases) else Advance(words)


def fires(rule: AbortRule, tally: Tally) -> str | None:
    """Why a rule fires, in words, or None."""
    classes = rule.classes or tuple(FailureClass)
    failed = sum(tally.failures.get(one, 0) for one in classes)
    kinds = " or ".join(one.value for one in rule.classes)
    named = f"{failed} failed ({kinds})" if kinds else f"{failed} failed"
    if rule.count is not None and failed >= rule.count:
        return f"{named}, at most {rule.count - 1} may"
    enough = tally.settled >= rule.min_sample
    if rule.percent is not None and enough and _above(rule.percent, failed, tally.settled):
        return f"{named} of {tally.settled}, at most {rule.percent:g} % may"
    return None


def margin(rule: AbortRule, tally: Tally) -> int:
    """How many of the devices on their way may still fail before a rule fires."""
    classes = rule.classes or tuple(FailureClass)
    failed = sum(tally.failures.get(one, 0) for one in classes)
    margins = [tally.in_flight]
    if rule.count is not None:
        margins.append(rule.count - 1 - failed)
    if rule.percent is not None:
        # n more fail, and are settled: (failed + n) * 10_000 <= hundredths * (settled + n)
        hundredths = _hundredths(rule.percent)
        spare = hundredths * tally.settled - failed * 10_000
        by_rate = spare // (10_000 - hundredths) if hundredths < 10_000 else tally.in_flight
        margins.append(max(by_rate, rule.min_sample - 1 - tally.settled))
    return max(0, min(margins))


def unmet(plan: Plan, index: int, record: PhaseRecord) -> str | None:
    """What a phase's success rule still wants, in words; None where it is met.

    A phase that adds nobody to those before it asks nothing; the first one has to prove something.
    """
    confirmed, wanted = record.tally.confirmed, needed(plan, index, record)
    if confirmed >= wanted:
        return None
    reach = reached(plan, record)
    words = f"phase {index + 1}: {confirmed} of {reach} confirmed, {wanted} are needed"
    if record.tally.offered >= record.members > 0 == record.tally.in_flight:
        words += "; none is on its way, so that only a device that tries again can prove it"
    return words


def needed(plan: Plan, index: int, record: PhaseRecord) -> int:
    """How many confirmed devices a phase's success rule asks for."""
    rule = plan.phases[index].success
    if index > 0 and record.members == record.tally.offered == 0:
        return 0
    reach = reached(plan, record)
    by_share = max(_share(rule.percent, reach), min(rule.min_sample, max(reach, 1)))
    return by_share if rule.count is None else min(rule.count, by_share)


def reached(plan: Plan, record: PhaseRecord) -> int:
    """The devices that a phase's percentage is of.

    All members, until those that have not been heard of had silent_after_s to come and be offered
    the release: then those that were. Otherwise one device in a drawer would hold the fleet for
    ever. Time in which the rollout was paused, its window shut, no server there, or devices waited
    for room in a budget is not counted: they are not in a drawer.
    """
    if record.watched_s < plan.silent_after_s:
        return max(record.members, record.tally.offered)
    return record.tally.offered


def phase_rules(plan: Plan, phase: Phase) -> tuple[AbortRule, ...]:
    """All abort rules that watch a phase."""
    return (*phase.abort, *plan.abort)


def _hundredths(percent: float) -> int:
    """Percentages count in steps of 0.01, as whole numbers: binary fractions would round."""
    return round(percent * 100)


def _share(percent: float, count: int) -> int:
    return -(-_hundredths(percent) * count // 10_000)


def _above(percent: float, part: int, whole: int) -> bool:
    return part * 10_000 > _hundredths(percent) * whole


def _unregressed(record: PhaseRecord) -> PhaseRecord:
    """The record as it would be, had no device fallen back after it was confirmed."""
    failures = dict(record.tally.failures)
    back = failures.pop(FailureClass.REGRESSED, 0)
    tally = replace(record.tally, confirmed=record.tally.confirmed + back, failures=failures)
    return replace(record, tally=tally)


def _proof(record: PhaseRecord) -> str:
    return f"{record.tally.confirmed} of {record.tally.offered} confirmed"
