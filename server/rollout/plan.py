"""What a rollout shall do, as its author wrote it: values that cannot be wrong.

Read from JSON by msgspec (store, HTTP) and from the command line; what does not make sense
raises UsageError. What has happened to a rollout stands in record.py.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import (
    BUDGET_MAX,
    COUNTER_MAX,
    NAME_CHARS_MAX,
    PHASES_MAX,
    ROLLOUT_RULES_MAX,
    SECONDS_MAX,
    SILENT_AFTER_S,
    SOAK_S_MAX,
    WINDOWS_MAX,
)
from slipstream.delta.maintenance import Schedule, parse_window
from slipstream.server.rollout.facts import check_selector
from slipstream.server.rollout.rsql import Filter, parse_filter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")


def _check(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(
            f"{what} is out of range", expected=f"{low:g} to {high:g}", got=f"{value:g}"
        )


class FailureClass(StrEnum):
    """Why an update did not succeed."""

    FETCH = "fetch"  # network or server: it could not be downloaded
    REJECTED = "rejected"  # a signature, a digest, a rule of the device
    DEVICE = "device"  # its disk or its boot loader
    BOOT = "boot"  # it was tried and the device fell back: panic, hang, a failed health check
    ROOT = "root"  # it came up with another root hash than the release's
    SILENT = "silent"  # nothing was heard in time
    REGRESSED = "regressed"  # it fell back after it was confirmed


class Halting(StrEnum):
    """What a rule that fires does."""

    PAUSE = "pause"  # until somebody resumes it
    ABORT = "abort"  # for good


class Urgency(StrEnum):
    """How hard the device is asked; hawkBit's action types."""

    SOFT = "soft"  # the device decides when
    FORCED = "forced"  # now: the device's own windows do not hold it
    TIME_FORCED = "time_forced"  # soft until `forced_at`


class Proof(StrEnum):
    """What makes an offer confirmed."""

    ROOT = "root"  # the device says that it is healthy and booted the release's root hash
    REPORT = "report"  # the device says so: all that hawkBit's clients can


@dataclass(frozen=True, slots=True)
class AbortRule:
    """Fires at `count` failures, or above `percent` of at least `min_sample` settled devices.

    `classes` empty: every failure counts. AWS IoT Jobs' abort criteria, with a count beside.
    """

    classes: tuple[FailureClass, ...] = ()
    percent: float | None = None
    min_sample: int = 1
    count: int | None = None
    action: Halting = Halting.PAUSE

    def __post_init__(self) -> None:
        if self.percent is None and self.count is None:
            raise UsageError("an abort rule needs a percentage, a count, or both")
        if self.percent is not None:
            _check("percentage of an abort rule", self.percent, 0, 100)
        if self.count is not None:
            _check("count of an abort rule", self.count, 1, BUDGET_MAX)
        _check("minimum sample of an abort rule", self.min_sample, 1, BUDGET_MAX)


@dataclass(frozen=True, slots=True)
class SuccessRule:
    """Met when `percent` of the phase's devices are confirmed, and at least `min_sample`.

    Devices that were not reached count until the rollout's silent_after_s is over. `count`:
    so many confirmed devices are enough, whatever the percentage.
    """

    percent: float = 95.0
    min_sample: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        _check("percentage of a success rule", self.percent, 0, 100)
        _check("minimum sample of a success rule", self.min_sample, 0, BUDGET_MAX)
        if self.count is not None:
            _check("count of a success rule", self.count, 1, BUDGET_MAX)


@dataclass(frozen=True, slots=True)
class Phase:
    """Exactly one of: up to `percent` of the fleet, up to `count` devices, or those selected.

    Percentages and counts are of the whole filter, the phases before included.
    """

    percent: float | None = None
    count: int | None = None
    selector: str | None = None
    soak_s: int = 0  # from the moment the success rule is met
    success: SuccessRule = field(default_factory=SuccessRule)
    abort: tuple[AbortRule, ...] = ()  # besides those of the plan

    def __post_init__(self) -> None:
        given = [one for one in (self.percent, self.count, self.selector) if one is not None]
        if len(given) != 1:
            raise UsageError(
                "a phase is a percentage, a count or a selector",
                expected="exactly one of percent, count, selector",
                got=f"{len(given)} of them",
            )
        if self.percent is not None:
            _check("percentage of a phase", self.percent, 0.01, 100)
        if self.count is not None:
            _check("count of a phase", self.count, 1, BUDGET_MAX)
        _check("soak time in seconds", self.soak_s, 0, SOAK_S_MAX)
        _check("number of abort rules", len(self.abort), 0, ROLLOUT_RULES_MAX)
        if self.selector is not None and not self.selector.strip():
            raise UsageError("a phase's selector is empty", expected="such as tag==canary")
        parse_filter(self.selector or "")

    @property
    def selects(self) -> Filter:
        return parse_filter(self.selector or "")

    def __str__(self) -> str:
        if self.selector is not None:
            return self.selector
        if self.percent is not None:
            return f"{self.percent:g} %"
        return "1 device" if self.count == 1 else f"{self.count} devices"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `max_unavailable` devices with one value of `label` are on their way at once."""

    label: str
    max_unavailable: int

    def __post_init__(self) -> None:
        check_selector(self.label)
        _check("devices unavailable at once", self.max_unavailable, 1, BUDGET_MAX)


@dataclass(frozen=True, slots=True)
class Plan:
    """A release for those that match, in phases."""

    name: str
    product: str
    release: str
    counter: int
    phases: tuple[Phase, ...]
    channel: str = "stable"
    filter: str = ""
    salt: str = ""  # of the order: rollouts with one salt begin with the same devices
    stratify_by: str | None = None  # a selector: each phase holds its values evenly
    abort: tuple[AbortRule, ...] = (
        AbortRule(percent=30.0, min_sample=3),  # small phases
        AbortRule(percent=5.0, min_sample=20),
    )
    silent_after_s: int = SILENT_AFTER_S
    urgency: Urgency = Urgency.SOFT
    forced_at: int | None = None
    download_only: bool = False
    budgets: tuple[Budget, ...] = ()
    max_downloads: int | None = None  # offers that have not come to an installation yet, at once
    start_at: int | None = None
    windows: tuple[str, ...] = ()  # "Sat,Sun 02:00-04:00": offers begin inside them only
    zone: str = "UTC"
    needs_approval: bool = False
    needs_consent: bool = False  # of the person at the device: hawkBit's clients can ask
    proof: Proof = Proof.ROOT
    beside: bool = False  # may run though another rollout offers the same release

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > NAME_CHARS_MAX:
            raise UsageError(
                "not a name for a rollout",
                expected=f"letters, digits, spaces, dots and dashes, at most {NAME_CHARS_MAX}",
                got=repr(self.name),
            )
        for what, text in (
            ("product", self.product),
            ("release", self.release),
            ("channel", self.channel),
        ):
            _check(f"length of the {what}'s name", len(text), 1, NAME_CHARS_MAX)
        _check("length of the salt", len(self.salt), 0, NAME_CHARS_MAX)
        _check("release counter", self.counter, 1, COUNTER_MAX)
        _check("start time", self.start_at or 0, 0, SECONDS_MAX)
        _check("time from which it is forced", self.forced_at or 0, 0, SECONDS_MAX)
        _check("number of phases", len(self.phases), 1, PHASES_MAX)
        _check("number of abort rules", len(self.abort), 0, ROLLOUT_RULES_MAX)
        _check("number of budgets", len(self.budgets), 0, ROLLOUT_RULES_MAX)
        _check("silent devices' time in seconds", self.silent_after_s, 60, SOAK_S_MAX)
        if self.max_downloads is not None:
            _check("downloads at once", self.max_downloads, 1, BUDGET_MAX)
        self._check_growing()
        if (self.urgency is Urgency.TIME_FORCED) != (self.forced_at is not None):
            raise UsageError("time_forced and forced_at go together")
        if self.stratify_by is not None:
            check_selector(self.stratify_by)
        parse_filter(self.filter)
        _schedule(self.windows, self.zone)

    def _check_growing(self) -> None:
        for kind in ("percent", "count"):
            sizes = [size for one in self.phases if (size := getattr(one, kind)) is not None]
            if any(late <= early for early, late in pairwise(sizes)):
                raise UsageError(
                    f"phases must grow: each {kind} includes those before",
                    expected="such as 1 %, 10 %, 100 %",
                    got=", ".join(f"{size:g}" for size in sizes),
                )
        for index, one in enumerate(self.phases[:-1]):
            if one.percent == 100:
                raise UsageError(f"phase {index + 1} already takes every device")

    @property
    def order_salt(self) -> str:
        """What shuffles the devices; without a salt of its own, each release has another order."""
        return self.salt or f"{self.product} {self.release}"

    @property
    def condition(self) -> Filter:
        return parse_filter(self.filter)

    @property
    def schedule(self) -> Schedule:
        return _schedule(self.windows, self.zone)

    def forced(self, now: int) -> bool:
        """Whether the device is asked to act at once."""
        if self.urgency is Urgency.TIME_FORCED:
            return self.forced_at is not None and now >= self.forced_at
        return self.urgency is Urgency.FORCED


@lru_cache(maxsize=256)
def _schedule(windows: tuple[str, ...], zone: str) -> Schedule:
    _check("number of windows", len(windows), 0, WINDOWS_MAX)
    try:
        found = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            "no such time zone", expected="a name such as Europe/Berlin or UTC", got=repr(zone)
        ) from error
    return Schedule(tuple(parse_window(one) for one in windows), found, zone)
