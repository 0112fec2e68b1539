"""The options that make the plan of a rollout, and the plan they make."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from slipstream.cli.durations import DURATION
from slipstream.delta.errors import UsageError
from slipstream.delta.limits import SILENT_AFTER_S
from slipstream.server.misfit import misfit
from slipstream.server.rollout.plan import (
    AbortRule,
    Budget,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
)

CLASSES = ", ".join(FailureClass)
_RULE = re.compile(
    r"(?:(?P<classes>[a-z]+(?:\+[a-z]+)*):)?"
    r"(?:(?P<percent>\d{1,3}(?:\.\d{1,2})?)%(?:/(?P<sample>\d{1,8}))?|(?P<count>\d{1,8}))"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?", re.ASCII)  # in the plan's zone
_PHASE = re.compile(r"(?P<percent>\d{1,3}(?:\.\d{1,2})?)%|(?P<count>\d{1,8})")


@dataclass(frozen=True, slots=True)
class Target:
    """What a rollout is of, where no option says it."""

    product: str
    release: str
    counter: int


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Every option that plan_from_options reads, on a command."""
    for one in reversed(_OPTIONS):
        command = one(command)
    return command


class Moment(click.ParamType[datetime]):
    """A local time, to the minute or second."""

    name = "time"

    def convert(
        self,
        value: str | datetime,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        found = None
        with suppress(ValueError):  # no such day
            found = datetime.fromisoformat(value) if _TIME.fullmatch(value) else None
        if found is None:
            self.fail(f"{value!r} is not a time; expected such as 2026-05-01T22:00", param, ctx)
        return found


_OPTIONS = (
    click.option(
        "--plan",
        "plan_file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="The whole plan, as JSON; instead of the options that make one.",
    ),
    click.option("--name", help="Of the rollout. Default: rollout."),
    click.option("--product", help="What kind of device it is for."),
    click.option("--channel", help="Default: stable."),
    click.option("--release", help="The version that is rolled out."),
    click.option("--counter", type=click.IntRange(1), help="Its counter."),
    click.option(
        "--filter", "filter_", metavar="RSQL", help="Only these devices: 'attribute.site==berlin'."
    ),
    click.option(
        "--phase",
        "phases",
        metavar="SIZE",
        multiple=True,
        help="10% of the devices, 50 of them, those before included; or a filter. Repeatable. Default: 100%.",
    ),
    click.option(
        "--soak",
        "soak_s",
        type=DURATION,
        help="How long a phase that has proved itself is watched before the next one opens.",
    ),
    click.option(
        "--success",
        metavar="RULE",
        help="What proves a phase: 95% of its devices confirmed, 95%/20: at least 20; 20: so many are enough. "
        "Default: 95%.",
    ),
    click.option(
        "--pause-at",
        "pauses",
        metavar="RULE",
        multiple=True,
        help="Pause above 5% failed, 5%/20: of at least 20 that ended; 3: so many failed; boot+root:3: of these "
        f"classes. Repeatable. Classes: {CLASSES}. Default: 30%/3 and 5%/20.",
    ),
    click.option(
        "--abort-at",
        "aborts",
        metavar="RULE",
        multiple=True,
        help="The same, for good. Repeatable.",
    ),
    click.option(
        "--silent-after",
        "silent_after_s",
        type=DURATION,
        help=f"A device that says nothing for so long has failed. Default: {SILENT_AFTER_S // 86_400}d.",
    ),
    click.option(
        "--stratify-by", metavar="SELECTOR", help="Each phase holds its values evenly: hardware."
    ),
    click.option("--salt", help="Rollouts with one salt begin with the same devices."),
    click.option(
        "--max-downloads", type=click.IntRange(1), help="Devices that fetch at once, at most."
    ),
    click.option(
        "--budget",
        "budgets",
        metavar="SELECTOR=N",
        multiple=True,
        help="At most N devices with one value of it on their way at once. Repeatable.",
    ),
    click.option(
        "--window",
        "windows",
        metavar="WINDOW",
        multiple=True,
        help="Offer only then: 'Sat,Sun 02:00-04:00'. Repeatable.",
    ),
    click.option("--zone", help="Time zone of windows and --start. Default: UTC."),
    click.option(
        "--start",
        type=Moment(),
        metavar="TIME",
        help="When it begins: 2026-05-01T22:00.",
    ),
)


def plan_from_options(target: Target, options: dict[str, Any]) -> Plan:
    """The plan, with what no option says from `target`. Raises UsageError."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    file = given.pop("plan_file", None)
    if file is not None:
        if given:
            raise UsageError(
                "--plan is the whole plan", got=f"--plan and {', '.join(sorted(given))}"
            )
        return _read(file)
    success = _success(given.pop("success", "95%"))
    soak_s = given.pop("soak_s", 0)
    texts = given.pop("phases", ("100%",))
    phases = tuple(_phase(text, soak_s, success) for text in texts)
    rules = [
        parse_rule(text, action)
        for name, action in (("pauses", Halting.PAUSE), ("aborts", Halting.ABORT))
        for text in given.pop(name, ())
    ]
    if rules:
        given["abort"] = tuple(rules)
    if "filter_" in given:
        given["filter"] = given.pop("filter_")
    if "budgets" in given:
        given["budgets"] = tuple(_budget(text) for text in given["budgets"])
    start: datetime | None = given.pop("start", None)
    known = {
        "name": "rollout",
        "product": target.product,
        "release": target.release,
        "counter": target.counter,
    }
    plan = Plan(**{**known, **given, "phases": phases})
    if start is None:
        return plan
    local = start.replace(tzinfo=plan.schedule.zone)
    return replace(plan, start_at=round(local.timestamp()))


def parse_rule(text: str, action: Halting) -> AbortRule:
    """An abort rule as options write it: 5%, 5%/20, 3, boot+root:3. Raises UsageError."""
    found = _RULE.fullmatch(text)
    names = (found["classes"] or "").split("+") if found is not None else []
    if found is None or not set(names) <= {"", *FailureClass}:
        raise UsageError(
            "not a rule",
            expected=f"such as 5%/20, 3 or boot+root:3; classes: {CLASSES}",
            got=repr(text),
        )
    classes = tuple(FailureClass(name) for name in names if name)
    if found["count"] is not None:
        return AbortRule(classes, count=int(found["count"]), action=action)
    return AbortRule(classes, float(found["percent"]), int(found["sample"] or 1), action=action)


def _success(text: str) -> SuccessRule:
    found = _RULE.fullmatch(text)
    if found is None or found["classes"]:
        raise UsageError(
            "not a rule", where="--success", expected="such as 95%, 95%/20 or 20", got=repr(text)
        )
    if found["count"] is not None:
        return SuccessRule(100.0, count=int(found["count"]))
    return SuccessRule(float(found["percent"]), int(found["sample"] or 1))


def _phase(text: str, soak_s: int, success: SuccessRule) -> Phase:
    found = _PHASE.fullmatch(text.strip())
    if found is None:
        return Phase(selector=text, soak_s=soak_s, success=success)
    if found["count"] is not None:
        return Phase(count=int(found["count"]), soak_s=soak_s, success=success)
    return Phase(percent=float(found["percent"]), soak_s=soak_s, success=success)


def _budget(text: str) -> Budget:
    label, equals, count = text.rpartition("=")
    if not equals or not re.fullmatch(r"\d{1,8}", count):
        raise UsageError("not a budget", expected="SELECTOR=N, such as group=5", got=repr(text))
    return Budget(label, int(count))


def _read(file: Path) -> Plan:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Plan)
    except OSError as error:
        raise UsageError(f"cannot read the plan: {error.strerror}", where=file) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"not a plan: {misfit(error, Plan)}", where=file) from error
