"""A rollout of the server for a person: a line for each phase with its bar, and what may still fail."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

BAR: Final = 24  # cells
_COLOURS = {"#": "green", "x": "red", ">": "yellow", ".": None}


def in_words(rollout: Mapping[str, Any]) -> Iterator[str]:
    """A rollout as GET /api/v1/rollouts/{id} tells it."""
    plan = rollout["plan"]
    status = rollout["status"].replace("_", " ")
    yield f"{plan['name']} ({rollout['id']}): {status}" + _because(rollout["reason"])
    yield (
        f"release {plan['release']} for {plan['product']}, channel {plan['channel']}"
        + (f", {plan['filter']}" if plan["filter"] else "")
        + (f"; written by {rollout['author']}" if rollout["author"] else "")
        + (f", decided by {rollout['decided_by']}" if rollout["decided_by"] else "")
        + (f": {rollout['remark']}" if rollout["remark"] else "")
    )
    if rollout["status"] in ("scheduled", "waiting_for_approval") and plan["start_at"]:
        yield f"begins at {datetime.fromtimestamp(plan['start_at'], UTC):%Y-%m-%d %H:%M} UTC"
    elif rollout["status"] == "scheduled":
        yield "begins within seconds"
    if rollout["status"] == "waiting_for_approval":
        yield f"nothing is offered until another approver says: slipstream rollout approve {rollout['id']}"
    yield ""
    width = max((12, *(len(one["text"]) + 5 for one in rollout["phases"])))
    yield (
        f"{'phase':<{width}}{'':{BAR + 3}}{'devices':>9}{'confirmed':>11}{'failed':>8}{'on their way':>14}"
    )
    for index, phase in enumerate(rollout["phases"]):
        name = f"{index + 1}  {phase['text']}"
        if phase["opened_at"] is None:
            yield f"{name:<{width}}{'not open yet':<{BAR + 3}}"
            continue
        failed = sum(phase["failures"].values())
        yield (
            f"{name:<{width}}[{bar(phase)}] {max(phase['members'], phase['offered']):>9,}"
            f"{phase['confirmed']:>11,}{failed:>8,}{phase['in_flight']:>14,}"
        )
    yield f"{'':{width}}# confirmed  x failed  > on their way  . not offered yet"
    if rollout["waits_for"]:
        yield f"devices wait for room: {rollout['waits_for']}"
    traffic = rollout["traffic"]
    if traffic["devices"]:
        yield (
            f"fetched, as {traffic['devices']:,} devices said: {traffic['fetched_bytes']:,} bytes, "
            f"instead of {traffic['full_bytes']:,} in full"
        )
    for index, phase in enumerate(rollout["phases"]):
        if phase["opened_at"] is not None:
            yield ""
            yield from _phase(index, phase)


def bar(phase: Mapping[str, Any]) -> str:
    """BAR cells, in the proportions of an open phase; what there is any of has at least one."""
    whole = max(phase["members"], phase["offered"], 1)
    failed = sum(phase["failures"].values())
    counts = {"#": phase["confirmed"], "x": failed, ">": phase["in_flight"]}
    counts["."] = whole - sum(counts.values())
    cells = {mark: max(count > 0, count * BAR // whole) for mark, count in counts.items()}
    # Rounding gives to, and the least cell takes from, whatever has most.
    most = max(cells, key=lambda mark: (counts[mark], cells[mark]))
    cells[most] += BAR - sum(cells.values())
    return "".join(
        click.style(mark * number, fg=_COLOURS[mark]) for mark, number in cells.items() if number
    )


def rule_words(rule: Mapping[str, Any]) -> str:
    """An abort rule: pause above 5 % of at least 20, boot or root."""
    bounds = []
    if rule["count"] is not None:
        bounds.append(f"at {rule['count']} failed")
    if rule["percent"] is not None:
        sample = f" of at least {rule['min_sample']}" if rule["min_sample"] > 1 else ""
        bounds.append(f"above {rule['percent']:g} % failed{sample}")
    classes = f" ({' or '.join(rule['classes'])})" if rule["classes"] else ""
    return f"{rule['action']} {' or '.join(bounds)}{classes}"


def margin_words(more: int, in_flight: int) -> str:
    """How many of the devices on their way may still fail before a rule fires."""
    if not in_flight:
        return "nothing is on its way"
    if more >= in_flight:
        return f"cannot fire, even if all {in_flight:,} on their way fail"
    return f"{more:,} of {in_flight:,} on their way may fail" if more else "not one more may fail"


def list_in_words(rollouts: list[Mapping[str, Any]]) -> Iterator[str]:
    """Rollouts as GET /api/v1/rollouts lists them."""
    if not rollouts:
        yield "no rollouts"
        return
    width = max(8, *(len(one["name"]) + 2 for one in rollouts))
    yield (
        f"{'id':<5}{'name':<{width}}{'release':<14}{'status':<22}{'phase':<8}"
        f"{'offered':>9}{'confirmed':>11}{'failed':>8}"
    )
    for one in rollouts:
        phase = f"{one['phase']} of {one['phases']}"
        status = one["status"].replace("_", " ")
        yield (
            f"{one['id']:<5}{one['name']:<{width}}{one['release']:<14}{status:<22}{phase:<8}"
            f"{one['offered']:>9,}{one['confirmed']:>11,}{one['failed']:>8,}"
        )


def _phase(index: int, phase: Mapping[str, Any]) -> Iterator[str]:
    if phase["missing"]:
        yield phase["missing"]
    elif phase["soaked_s"] < phase["soak_s"]:
        yield f"phase {index + 1} is proved; soaked {phase['soaked_s']} of {phase['soak_s']} s"
    else:
        yield f"phase {index + 1} is proved"
    kinds = sorted(phase["failures"].items(), key=lambda one: -one[1])
    if kinds:
        # One of the classes is `device`: beside a count it would read as a number of devices.
        yield "  failed: " + ", ".join(f"{count:,} ({kind})" for kind, count in kinds if count)
    for one in phase["rules"]:
        if one["fires"]:
            margin = click.style(f"fires: {one['fires']}", fg="red")
        else:
            margin = margin_words(one["margin"], phase["in_flight"])
        yield f"  {rule_words(one['rule'])}: {margin}"


def _because(reason: str) -> str:
    return f", {reason}" if reason else ""
