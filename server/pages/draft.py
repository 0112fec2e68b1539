"""The form that starts a rollout: from its fields to a plan, or to what is wrong with them. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from slipstream.delta.errors import UsageError
from slipstream.server.catalog import Catalog
from slipstream.server.rollout.facts import check_selector
from slipstream.server.rollout.plan import (
    AbortRule,
    Budget,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
    Urgency,
)
from slipstream.server.rollout.rsql import parse_filter

PHASE_ROWS = 5
RULE_ROWS = 4
_SUPPOSED_MAX = 50  # two classes of failures that make up all devices at most
_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_COUNT = re.compile(r"(\d+)(?:\s+devices?)?")

# What a form holds before anybody writes into it. A cautious rollout: four steps, each ten times
# the one before, half a day until a tenth of the fleet has it.
DEFAULTS: Mapping[str, str] = {
    "phase1": "1 %",
    "soak1": "2 h",
    "phase2": "10 %",
    "soak2": "12 h",
    "phase3": "50 %",
    "soak3": "12 h",
    "phase4": "100 %",
    "success": "95",
    "percent1": "30",
    "sample1": "3",
    "percent2": "5",
    "sample2": "20",
    "count3": "1",
    "class3": "regressed",
    "silent": "3 d",
    "urgency": "soft",
    "zone": "UTC",
    "suppose_boot": "2",
    "suppose_silent": "1",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A form's fields and what they make: `plan`, or `problem` by the name of the field."""

    fields: Mapping[str, str]
    plan: Plan | None
    problems: Mapping[str, str] = field(default_factory=dict)
    boot_percent: float = 0.0  # devices that are supposed to fall back, in the simulation
    silent_percent: float = 0.0  # ... and never to be heard of again


@dataclass
class _Reading:
    """Reads fields; what does not make sense is noted and read as None."""

    fields: Mapping[str, str]
    problems: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.fields.get(name, "").strip()

    def number(self, name: str) -> float | None:
        text = self.text(name).removesuffix("%").strip()
        if not text:
            return None
        if not re.fullmatch(r"\d{1,9}(\.\d{1,4})?", text):
            self.problems[name] = "not a number"
            return None
        return float(text)

    def percent(self, name: str) -> float:
        """A percentage up to 50, nothing is 0."""
        number = self.number(name) or 0.0
        if number > _SUPPOSED_MAX:
            self.problems[name] = f"at most {_SUPPOSED_MAX} %"
            return 0.0
        return number

    def whole(self, name: str) -> int | None:
        number = self.number(name)
        if number is not None and number != int(number):
            self.problems[name] = "not a whole number"
            return None
        return None if number is None else int(number)

    def span(self, name: str) -> int | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return parse_span(text)
        except UsageError as error:
            self.problems[name] = str(error)
            return None

    def checked(self, name: str, check: Callable[[str], object]) -> str:
        """A text that has to pass a check, if there is one."""
        text = self.text(name)
        try:
            if text:
                check(text)
        except UsageError as error:
            self.problems[name] = str(error)
        return text

    def moment(self, name: str) -> int | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):
            self.problems[name] = "not a moment, such as 2026-12-24T06:00"
            return None


def read_draft(fields: Mapping[str, str], catalog: Catalog) -> Draft:
    """The plan that the fields describe. A problem of no single field stands under "plan"."""
    read = _Reading(fields)
    product, _, name = read.text("release").partition("/")
    release = catalog.find(product, name)
    if release is None:
        read.problems["release"] = "choose a release"
    phases = _phases(read)
    rules = _rules(read)
    budgets = _budgets(read)
    condition = read.checked("filter", parse_filter)
    stratify = read.checked("stratify", check_selector)
    silent = read.span("silent")
    downloads = read.whole("downloads")
    urgency = _urgency(read)
    forced_at = read.moment("forced_at") if urgency is Urgency.TIME_FORCED else None
    start_at = read.moment("start_at")
    boot, gone = read.percent("suppose_boot"), read.percent("suppose_silent")
    if read.problems or release is None:
        return Draft(fields, None, read.problems)
    try:
        plan = Plan(
            name=read.text("name"),
            product=release.product,
            release=release.release,
            counter=release.counter,
            phases=phases,
            channel=read.text("channel") or release.channel,
            filter=condition,
            stratify_by=stratify or None,
            abort=rules,
            silent_after_s=silent if silent is not None else 3 * 86_400,
            urgency=urgency,
            forced_at=forced_at,
            download_only="download_only" in fields,
            budgets=budgets,
            max_downloads=downloads,
            start_at=start_at,
            windows=tuple(one.strip() for one in read.text("windows").split(";") if one.strip()),
            zone=read.text("zone") or "UTC",
            needs_approval="approval" in fields,
            beside="beside" in fields,
        )
    except UsageError as error:
        return Draft(fields, None, {_whose(error): str(error)})
    return Draft(fields, plan, boot_percent=boot, silent_percent=gone)


def parse_span(text: str) -> int:
    """A duration such as 90 s, 30 min, 2 h, 1.5 d in whole seconds. UsageError."""
    found = _SPAN.fullmatch(text.strip())
    if found is None or len(found[1]) > 9:
        raise UsageError("not a duration", expected="such as 30 min, 2 h or 3 d", got=repr(text))
    return round(float(found[1]) * _UNITS[found[2]])


def parse_phase(text: str, soak_s: int, success: SuccessRule) -> Phase:
    """A phase of 10 %, of 50 devices, or of those that a filter selects. UsageError."""
    if found := _PERCENT.fullmatch(text):
        return Phase(percent=float(found[1]), soak_s=soak_s, success=success)
    if found := _COUNT.fullmatch(text):
        return Phase(count=int(found[1]), soak_s=soak_s, success=success)
    return Phase(selector=text, soak_s=soak_s, success=success)


def _phases(read: _Reading) -> tuple[Phase, ...]:
    percent = read.number("success")
    success = SuccessRule()
    try:
        success = SuccessRule() if percent is None else SuccessRule(percent=percent)
    except UsageError as error:
        read.problems["success"] = str(error)
    found: list[Phase] = []
    for row in range(1, PHASE_ROWS + 1):
        text, soak = read.text(f"phase{row}"), read.span(f"soak{row}")
        if not text:
            continue
        try:
            found.append(parse_phase(text, soak or 0, success))
        except UsageError as error:
            read.problems[f"phase{row}"] = str(error)
    if not found and "phase1" not in read.problems:
        read.problems["phase1"] = "a rollout has at least one phase"
    return tuple(found)


def _rules(read: _Reading) -> tuple[AbortRule, ...]:
    found: list[AbortRule] = []
    for row in range(1, RULE_ROWS + 1):
        percent, count = read.number(f"percent{row}"), read.whole(f"count{row}")
        sample, kind = read.whole(f"sample{row}"), read.text(f"class{row}")
        if percent is None and count is None:
            continue
        try:
            classes = (FailureClass(kind),) if kind else ()
            action = Halting.ABORT if read.text(f"action{row}") == "abort" else Halting.PAUSE
            found.append(AbortRule(classes, percent, sample or 1, count, action))
        except (UsageError, ValueError) as error:
            read.problems[f"percent{row}"] = str(error)
    return tuple(found)


def _budgets(read: _Reading) -> tuple[Budget, ...]:
    label, most = read.text("budget_label"), read.whole("budget")
    if not label and most is None:
        return ()
    if not label or most is None:
        read.problems["budget_label"] = "a budget needs both: a label and a number of devices"
        return ()
    try:
        return (Budget(label, most),)
    except UsageError as error:
        read.problems["budget_label"] = str(error)
        return ()


def _urgency(read: _Reading) -> Urgency:
    try:
        return Urgency(read.text("urgency") or "soft")
    except ValueError:
        read.problems["urgency"] = "choose one of the list"
        return Urgency.SOFT


def _whose(error: UsageError) -> str:
    """The field that an error of the whole plan is about, as far as its words tell."""
    words = str(error)
    for clue, name in (
        ("name for a rollout", "name"),
        ("phase", "phase1"),
        ("time zone", "zone"),
        ("window", "windows"),
        ("forced_at", "forced_at"),
        ("silent", "silent"),
        ("downloads", "downloads"),
    ):
        if clue in words:
            return name
    return "plan"
