"""`slipstream rollout`: phased rollouts, and how one is tried out before it begins."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import click
import msgspec

from slipstream.cli import rollout_acts
from slipstream.cli.durations import DURATION
from slipstream.cli.rollout_plan import CLASSES, Target, plan_from_options, plan_options
from slipstream.delta.durable import write_durably
from slipstream.delta.errors import UsageError
from slipstream.delta.limits import COUNTER_MAX, SIMULATED_DEVICES_MAX, SIMULATED_RUNS_MAX
from slipstream.server.rollout.behaviour import (
    Behaviour,
    Failing,
    Spread,
    parse_fleet,
    synthetic_fleet,
)
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.outcome import Figures, Outcome, Summary, span, summarize
from slipstream.server.rollout.picture import draw
from slipstream.server.rollout.plan import FailureClass, Halting, Plan
from slipstream.server.rollout.simulate import simulate as run_simulation

FILE = click.Path(path_type=Path, dir_okay=False)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%?")


@click.group()
def rollout() -> None:
    """Roll releases out in phases; try it out before."""


for _command in (
    rollout_acts.create,
    rollout_acts.list_rollouts,
    rollout_acts.show,
    *rollout_acts.acts(),
):
    rollout.add_command(_command)


@rollout.command()
@plan_options
@click.option(
    "--devices",
    "count",
    type=click.IntRange(1, SIMULATED_DEVICES_MAX),
    default=1000,
    show_default=True,
    help="Of the fleet that is made up.",
)
@click.option(
    "--spread",
    "spreads",
    metavar="SELECTOR=VALUE:WEIGHT,...",
    multiple=True,
    help="Values of those devices, by weight: hardware=rev-a:9,rev-b:1. Repeatable.",
)
@click.option(
    "--fleet",
    "fleet_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="A recorded fleet instead: one JSON object a line, with id, product, channel, hardware, release, counter, "
    "group, tags, attributes.",
)
@click.option(
    "--fail",
    "failing",
    metavar="CLASS=PERCENT[:RSQL]",
    multiple=True,
    help=f"So many of the devices, or of those that a filter selects, fail: boot=2, 'boot=60:hardware==rev-b'. "
    f"Repeatable. Classes: {CLASSES}.",
)
@click.option("--poll-interval", "poll_interval_s", type=DURATION, help="Default: 5m.")
@click.option(
    "--fetch-time", "fetch_s", type=DURATION, help="To fetch and write, the median. Default: 10m."
)
@click.option(
    "--boot-time", "boot_s", type=DURATION, help="To reboot and confirm, the median. Default: 90s."
)
@click.option(
    "--regress-after",
    "regress_after_s",
    type=DURATION,
    help="From confirmed to fallen back, the mean. Default: 1d.",
)
@click.option("--offline", metavar="PERCENT", help="Devices that do not poll when it begins.")
@click.option(
    "--offline-for", "offline_s", type=DURATION, help="Until they do, the mean. Default: 7d."
)
@click.option(
    "--seed", default=1, show_default=True, help="Of chance; the same one gives the same."
)
@click.option(
    "--runs",
    type=click.IntRange(1, SIMULATED_RUNS_MAX),
    default=1,
    show_default=True,
    help="With as many seeds, one after the other; the figures of all are told.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--picture", type=FILE, metavar="FILE.svg", help="Draw the first run to this file.")
def simulate(
    count: int,
    spreads: tuple[str, ...],
    fleet_file: Path | None,
    failing: tuple[str, ...],
    poll_interval_s: int | None,
    fetch_s: int | None,
    boot_s: int | None,
    regress_after_s: int | None,
    offline: str | None,
    offline_s: int | None,
    seed: int,
    runs: int,
    as_json: bool,
    picture: Path | None,
    **plan_options: Any,
) -> None:
    """Say what would become of a rollout: devices exposed, when and why it stops, when it is done.

    The engine is the one that serves devices; the fleet is made up or read from a file, and chance
    is as you say. Nothing is changed anywhere.

    \b
        slipstream rollout simulate --phase 1% --phase 10% --phase 100% --soak 2h --fail boot=3
    """
    recorded = None if fleet_file is None else _read_fleet(fleet_file)
    if recorded is not None and spreads:
        raise UsageError("--spread is of a fleet that is made up", got="--spread and --fleet")
    plan = plan_from_options(_target(recorded), plan_options)
    times = {
        "poll_interval_s": poll_interval_s,
        "fetch_s": fetch_s,
        "boot_s": boot_s,
        "regress_after_s": regress_after_s,
        "offline_s": offline_s,
    }
    behaviour = Behaviour(
        tuple(_failing(text) for text in failing),
        offline=0.0 if offline is None else _share(offline, "--offline"),
        **{name: value for name, value in times.items() if value is not None},
    )
    spread_values = [_spread(text) for text in spreads]
    outcomes = []
    for number in range(seed, seed + runs):
        random = Random(number)
        fleet = recorded
        if fleet is None:
            fleet = synthetic_fleet(plan, count, spread_values, random)
        outcomes.append(run_simulation(plan, fleet, behaviour, random))
        if not outcomes[0].devices:
            raise UsageError(
                "no device of the fleet is one that the plan is for",
                expected=f"product {plan.product}, channel {plan.channel}, a counter below {plan.counter}"
                + (f", {plan.filter}" if plan.filter else ""),
            )
    if picture is not None:
        write_durably(picture, draw(outcomes[0]).encode())
    if as_json:
        click.echo(json.dumps(_as_json(plan, outcomes, seed)))
        return
    for line in in_words(outcomes[0], seed) if runs == 1 else in_figures(outcomes, seed):
        click.echo(line)


def in_words(outcome: Outcome, seed: int) -> Iterator[str]:
    """One run, for a person."""
    yield (
        f"{outcome.name}: release {outcome.release} for {outcome.devices:,} devices in "
        f"{_phases(outcome)}, seed {seed}"
    )
    yield ""
    yield f"{'phase':<28}{'devices':>9}{'offered':>9}{'confirmed':>11}{'failed':>8}{'opens':>14}{'proved':>14}"
    for index, name in enumerate(outcome.planned):
        words = f"{index + 1}  {name}"
        if index >= len(outcome.phases):
            yield f"{words:<28}{'-':>9}{'-':>9}{'-':>11}{'-':>8}{'never':>14}{'-':>14}"
            continue
        phase = outcome.phases[index]
        proved = "-" if phase.proved_s is None else span(phase.proved_s)
        yield (
            f"{words:<28}{phase.members:>9,}{phase.tally.offered:>9,}{phase.tally.confirmed:>11,}"
            f"{phase.tally.failed:>8,}{span(phase.opened_s) if phase.opened_s else 'at once':>14}{proved:>14}"
        )
    yield ""
    if outcome.finished_s is not None:
        yield f"finished    after {span(outcome.finished_s)}: {outcome.phases[-1].name} has proved itself"
    stop = outcome.stop
    if stop is not None:
        done = "paused" if stop.halting is Halting.PAUSE else "aborted"
        yield f"{done:<12}after {span(stop.at_s)}: {stop.reason}"
        yield (
            f"exposed     {_part(stop.offered, outcome.devices)}; {stop.confirmed:,} were confirmed then, "
            f"{stop.failed:,} had failed, {stop.in_flight:,} were on their way"
        )
    elif outcome.finished_s is None:
        yield f"unfinished  it waits, and nothing more happens: {outcome.reason}"
    failures = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcome.failures.items()))
    end = max(outcome.finished_s or 0, 0 if stop is None else stop.at_s)
    yield (
        f"in the end  {_part(outcome.offered, outcome.devices)} offered, "
        f"{outcome.confirmed:,} confirmed, {outcome.failed:,} failed"
        + (f" ({failures})" if failures else "")
        + (f"; the last word came after {span(outcome.ended_s)}" if outcome.ended_s > end else "")
    )
    yield (
        f"at once     {outcome.downloads_max:,} fetching and {outcome.unavailable_max:,} on their way at most"
    )


def in_figures(outcomes: Sequence[Outcome], seed: int) -> Iterator[str]:
    """Several runs, for a person."""
    first, told = outcomes[0], summarize(outcomes)
    yield (
        f"{first.name}: release {first.release} for {first.devices:,} devices in "
        f"{_phases(first)}, {told.runs} runs, seeds {seed} to {seed + told.runs - 1}"
    )
    yield ""
    yield f"{'':<28}{'runs':>9}{'least':>14}{'median':>14}{'most':>14}"
    yield _row("paused or aborted, after", told.stopped, told.stopped_s)
    yield _row("finished, after", told.finished, told.finished_s)
    if told.waiting:
        yield f"{'neither: something missed':<28}{told.waiting:>9}"
    for words, figures in (
        ("devices exposed", told.exposed),
        ("devices failed in the end", told.failed),
    ):
        least, middle, most = figures.least, figures.median, figures.most
        yield f"{words:<28}{told.runs:>9}{least:>14,.0f}{middle:>14,.0f}{most:>14,.0f}"
    for index, name in enumerate(first.planned):
        count = sum(one.stop is not None and one.stop.phase == index for one in outcomes)
        if count:
            yield f"{f'stopped by phase {index + 1}, {name}':<28}{count:>9}"


def _phases(outcome: Outcome) -> str:
    count = len(outcome.planned)
    return f"{count} phase{'s' if count > 1 else ''}"


def _row(words: str, count: int, figures: Figures | None) -> str:
    spans = () if figures is None else (figures.least, figures.median, figures.most)
    return f"{words:<28}{count:>9}" + "".join(f"{span(one):>14}" for one in spans)


def _part(count: int, whole: int) -> str:
    return f"{count:,} of {whole:,} devices ({count / whole:.1%})"


def _as_json(plan: Plan, outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    told: dict[str, Any] = {"plan": msgspec.to_builtins(plan)}
    runs = []
    for number, outcome in enumerate(outcomes, start=seed):
        one = msgspec.to_builtins(outcome)
        runs.append({"seed": number, **one, "failed": outcome.failed, "exposed": outcome.exposed})
        if len(outcomes) > 1:
            del runs[-1]["curve"]
    if len(outcomes) == 1:
        return {**told, **runs[0]}
    summary: Summary = summarize(outcomes)
    return {**told, "summary": msgspec.to_builtins(summary), "runs": runs}


def _target(fleet: Sequence[Facts] | None) -> Target:
    """A release that is new to every device of a fleet."""
    if fleet is None:
        return Target("product", "next", 2)
    products = sorted({one.product for one in fleet})
    newest = max((one.counter for one in fleet if one.counter is not None), default=1)
    return Target(products[0] if len(products) == 1 else "", "next", min(newest + 1, COUNTER_MAX))


def _read_fleet(file: Path) -> list[Facts]:
    with file.open("rb") as lines:
        return list(parse_fleet(lines))


def _failing(text: str) -> Failing:
    name, equals, rest = text.partition("=")
    percent, _, where = rest.partition(":")
    if not equals or name not in set(FailureClass):
        raise UsageError(
            "not a failure",
            where="--fail",
            expected=f"CLASS=PERCENT; classes: {CLASSES}",
            got=repr(text),
        )
    return Failing(FailureClass(name), _share(percent, "--fail"), where)


def _share(text: str, option: str) -> float:
    found = _PERCENT.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise UsageError(
            "not a percentage", where=option, expected="0 to 100, such as 2 or 0.5%", got=repr(text)
        )
    return float(found[1]) / 100


def _spread(text: str) -> Spread:
    selector, _, values = text.partition("=")
    weights: dict[str, float] = {}
    for one in values.split(","):
        value, _, weight = one.rpartition(":")
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", weight):
            raise UsageError(
                "not a spread",
                expected="SELECTOR=VALUE:WEIGHT,..., such as hardware=rev-a:9,rev-b:1",
                got=repr(text),
            )
        weights[value] = float(weight)
    return Spread(selector, weights)
