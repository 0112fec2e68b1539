"""Shares as bars, and counts over time as stacked areas: geometry in percent, for SVG. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from slipstream.server.pages.words import share_words
from slipstream.server.rollout.judge import Tally
from slipstream.server.rollout.outcome import Outcome
from slipstream.server.rollout.rsql import version_order

_THINNEST = 0.4  # per cent of a bar
LAYERS_MAX = 6  # releases with an area of their own: more cannot be told apart


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar. `kind` names its look, as style.css draws it; x and width in percent."""

    kind: str
    x: float
    width: float


def tally_bar(tally: Tally, whole: int) -> tuple[Segment, ...]:
    """Confirmed, failed and on their way, of `whole` devices (or of all offers, if more)."""
    return bar(
        (("good", tally.confirmed), ("bad", tally.failed), ("going", tally.in_flight)),
        max(whole, tally.offered),
    )


def bar(parts: Sequence[tuple[str, int]], whole: int) -> tuple[Segment, ...]:
    """Parts side by side. What is there can be seen: no part is thinner than _THINNEST."""
    shown = [(kind, 100 * number / whole) for kind, number in parts if number > 0 and whole > 0]
    widths = [max(width, _THINNEST) for _, width in shown]
    if (over := sum(widths) - 100) > 0:
        widths[widths.index(max(widths))] -= over
    segments: list[Segment] = []
    at = 0.0
    for (kind, _), width in zip(shown, widths, strict=True):
        segments.append(Segment(kind, round(at, 2), round(width, 2)))
        at += width
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class Layer:
    """A release in a chart: its area as an SVG path in a 100 by 100 square, and how many run it."""

    name: str
    look: int  # 0: the newest release; rises with age
    path: str
    devices: int
    share: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Devices by release over time. `top` is the highest sum; the layers begin with the newest."""

    layers: tuple[Layer, ...]
    top: int
    since: int
    until: int


def stack(history: Mapping[int, Mapping[str, int]], current: Mapping[str, int], now: int) -> Chart:
    """Counts by release and moment as stacked areas, the newest release at the bottom.

    `history` by seconds since 1970, in order; `current` is the count at `now`. Releases beyond
    LAYERS_MAX are summed up as "others", "" (a device that never said) stays at the top.
    """
    moments = {at: counts for at, counts in history.items() if at < now} | {now: current}
    ever: dict[str, int] = {}
    for counts in moments.values():
        for name, number in counts.items():
            ever[name] = max(ever.get(name, 0), number)
    common = sorted((name for name in ever if name), key=lambda name: (-ever[name], name))
    shown = sorted(common[:LAYERS_MAX], key=version_order, reverse=True)
    rows = [(name, name) for name in shown]
    groups = {name: {name} for name in shown}
    if rest := set(common[LAYERS_MAX:]):
        rows.append(("others", "others"))
        groups["others"] = rest
    if "" in ever:
        rows.append(("", "not said"))
        groups[""] = {""}
    times = sorted(moments)
    if len(times) == 1:  # a line needs two ends
        times = [times[0] - 3600, times[0]]
        moments[times[0]] = current
    top = max((sum(counts.values()) for counts in moments.values()), default=0)
    base = [0.0] * len(times)
    total = sum(current.values())
    layers: list[Layer] = []
    for look, (key, label) in enumerate(rows):
        heights = [
            sum(number for name, number in moments[at].items() if name in groups[key])
            for at in times
        ]
        upper = [low + high for low, high in zip(base, heights, strict=True)]
        now_runs = heights[-1]
        layers.append(
            Layer(
                label, look, _area(times, base, upper, top), now_runs, share_words(now_runs, total)
            )
        )
        base = upper
    return Chart(tuple(layers), top, times[0], times[-1])


@dataclass(frozen=True, slots=True)
class Curves:
    """A simulated rollout: lines as SVG paths in a 100 by 100 square, and where phases opened."""

    offered: str
    confirmed: str
    failed: str
    bands: tuple[Segment, ...]  # the phases, every second one shaded
    halt: float | None  # where it was stopped, in percent of the time shown
    top: int
    until_s: int


def curves(outcome: Outcome) -> Curves:
    """The curves of an outcome, until a while after it stopped or finished: the last silent device
    may take days more.
    """
    end = outcome.curve[-1].at_s
    if outcome.stop is not None:
        end = min(end, 2 * outcome.stop.at_s)
    elif outcome.finished_s is not None:
        end = min(end, round(1.1 * outcome.finished_s))
    until = max(1, end)
    points = [point for point in outcome.curve if point.at_s <= until]
    points.append(replace(points[-1], at_s=until))
    top = max(1, *(point.offered for point in points))

    def path(values: Iterable[int]) -> str:
        drawn = [
            f"{100 * point.at_s / until:.2f} {100 - 100 * value / top:.2f}"
            for point, value in zip(points, values, strict=True)
        ]
        return f"M{' L'.join(drawn)}"

    opened = [min(100.0, 100 * one.opened_s / until) for one in outcome.phases]
    ends = [*opened[1:], 100.0]
    return Curves(
        path(point.offered for point in points),
        path(point.confirmed for point in points),
        path(point.failed for point in points),
        tuple(
            Segment("odd" if index % 2 else "even", round(begin, 2), round(end - begin, 2))
            for index, (begin, end) in enumerate(zip(opened, ends, strict=False))
        ),
        None if outcome.stop is None else round(100 * outcome.stop.at_s / until, 2),
        top,
        until,
    )


def _area(times: Sequence[int], low: Sequence[float], high: Sequence[float], top: int) -> str:
    span = max(times[-1] - times[0], 1)

    def point(at: int, value: float) -> str:
        return f"{100 * (at - times[0]) / span:.2f} {100 - 100 * value / max(top, 1):.2f}"

    there = [point(at, value) for at, value in zip(times, high, strict=True)]
    back = [point(at, value) for at, value in zip(times, low, strict=True)]
    return f"M{' L'.join(there + back[::-1])} Z"
