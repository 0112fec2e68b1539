"""A simulated rollout as SVG: phases as bands, devices as curves, and the moment that it stopped.

Pure: an outcome in, text out; the same outcome gives the same bytes. It is legible on light and
dark screens (prefers-color-scheme), without colours (each curve has its own dashes and its name at
its end), and to a screen reader (title and description).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

from slipstream.server.rollout.outcome import Outcome, Point, span
from slipstream.server.rollout.plan import Halting

WIDTH, HEIGHT = 1200, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 1010, 132, 570  # of the plot, in pixels
_STRIP = 8  # above the plot: proving, and soaking
_TICKS_MAX = 8
_LABEL_GAP = 20  # between the names of curves
_CHARACTER = 7.4  # mean width of a letter of 14 pixels
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS_S = (
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 28, 56, 112)),
)
_NAMED = 'class="rollout" role="img" aria-labelledby="rollout-title rollout-desc"'
_CURVES = ("offered", "confirmed", "failed")

# Classes, not custom properties: not every reader of SVG knows those. All below .rollout, so that
# the style stays in the picture where it stands inside a page.
_STYLE = """
.rollout{font-family:system-ui,sans-serif;font-size:14px}
.rollout text{fill:#1d2530}.rollout .soft{fill:#4a5563}.rollout .title{font-size:22px;font-weight:600}
.rollout .paper{fill:#ffffff}.rollout .band{fill:#f2f5f9}.rollout .band.odd{fill:#e6ecf3}
.rollout .grid{stroke:#cfd7e1}.rollout .proving{fill:#7d8da1}.rollout .soaking{fill:#c3cedb}
.rollout path{fill:none;stroke-width:3}.rollout .bound{stroke:#6b7889;stroke-width:1.5;stroke-dasharray:2 4}
.rollout .offered{stroke:#1d5fc4}.rollout .confirmed{stroke:#157347;stroke-dasharray:12 3}
.rollout .failed{stroke:#c0262d;stroke-dasharray:4 3}.rollout .halt{stroke:#9a3412;stroke-width:3}
.rollout text.offered{fill:#1d5fc4;stroke:none}.rollout text.confirmed{fill:#157347;stroke:none}
.rollout text.failed{fill:#c0262d;stroke:none}.rollout text.halt{fill:#9a3412;stroke:none;font-weight:600}
@media (prefers-color-scheme:dark){
.rollout text{fill:#e8edf3}.rollout .soft{fill:#aab6c4}.rollout .paper{fill:#11161d}
.rollout .band{fill:#19212b}.rollout .band.odd{fill:#212b37}.rollout .grid{stroke:#3a4757}
.rollout .proving{fill:#8fa1b6}.rollout .soaking{fill:#4a5a6d}.rollout .bound{stroke:#94a3b5}
.rollout .offered{stroke:#7ab0ff}.rollout .confirmed{stroke:#5fd39b}.rollout .failed{stroke:#ff8f8f}
.rollout .halt{stroke:#ffb37a}.rollout text.offered{fill:#7ab0ff}.rollout text.confirmed{fill:#5fd39b}
.rollout text.failed{fill:#ff8f8f}.rollout text.halt{fill:#ffb37a}
}
"""


class _Scale(NamedTuple):
    """From seconds and devices to pixels."""

    seconds: float
    devices: int

    def x(self, at_s: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * min(1.0, at_s / self.seconds)

    def y(self, count: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * count / self.devices


def draw(outcome: Outcome) -> str:
    """The picture of one run."""
    bounds = list(_bounds(outcome))
    most = max([1, outcome.offered, *(bound for _, bound in bounds)])
    tick = _count_step(most)
    scale = _Scale(_shown_s(outcome), -(-most // tick) * tick)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_NAMED}>',
        f'<title id="rollout-title">{escape(title_of(outcome))}</title>',
        f'<desc id="rollout-desc">{escape(description_of(outcome))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        _text(title_of(outcome), 24, 38, "title"),
        _text(_cut(_verdict(outcome), 150), 24, 64, "soft"),
        *_bands(outcome, scale),
        *_axes(scale, tick),
        _path("bound", bounds, scale),
        *(_path(name, _points(outcome.curve, name), scale) for name in _CURVES),
        *_halt(outcome, scale),
        *_names(outcome, bounds, scale),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def title_of(outcome: Outcome) -> str:
    """One line."""
    return f"{outcome.name}: release {outcome.release} on {outcome.devices:,} simulated devices"


def description_of(outcome: Outcome) -> str:
    """What the picture shows, for those who do not see it."""
    phases = "; ".join(
        f"phase {index + 1}, {one.name}, opens after {span(one.opened_s)}: {one.tally.offered:,} offered, "
        f"{one.tally.confirmed:,} confirmed, {one.tally.failed:,} failed"
        for index, one in enumerate(outcome.phases)
    )
    return f"{_verdict(outcome)}. Of {len(outcome.planned)} phases {len(outcome.phases)} opened: {phases}."


def _verdict(outcome: Outcome) -> str:
    stop = outcome.stop
    if stop is not None:
        done = "Paused" if stop.halting is Halting.PAUSE else "Aborted"
        return (
            f"{done} after {span(stop.at_s)} with {stop.offered:,} devices exposed; {stop.reason}"
        )
    if outcome.finished_s is not None:
        return (
            f"Finished after {span(outcome.finished_s)}: {outcome.confirmed:,} confirmed and "
            f"{outcome.failed:,} failed in the end"
        )
    return f"Unfinished; it waits: {outcome.reason}"


def _shown_s(outcome: Outcome) -> float:
    """Seconds on the picture: what comes long after the end would squeeze all before it."""
    ends = [outcome.finished_s, None if outcome.stop is None else outcome.stop.at_s]
    end = max([one for one in ends if one is not None], default=outcome.ended_s)
    return max(60.0, end * 1.05, min(outcome.ended_s, end * 1.25))


def _bounds(outcome: Outcome) -> Iterator[tuple[int, int]]:
    """How many devices may have been offered the release, from when on."""
    total = 0
    yield 0, 0
    for one in outcome.phases:
        total += one.members  # nobody joins a simulated fleet: also where there is no limit
        yield one.opened_s, total


def _points(curve: Sequence[Point], name: str) -> list[tuple[int, int]]:
    return [(one.at_s, getattr(one, name)) for one in curve]


def _path(name: str, points: Sequence[tuple[int, int]], scale: _Scale) -> str:
    """A curve in steps: between two events nothing changes."""
    at_s, count = points[0]
    steps = [f"M{scale.x(at_s):.1f} {scale.y(count):.1f}"]
    for at_s, count in points[1:]:
        if at_s > scale.seconds:
            break
        steps.append(f"H{scale.x(at_s):.1f}V{scale.y(count):.1f}")
    return f'<path class="{name}" d="{"".join(steps)}H{_RIGHT}"/>'


def _bands(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    # A phase ends where the next one opens; the last one with the picture, or where it stopped.
    end = scale.seconds if outcome.stop is None else float(outcome.stop.at_s)
    edges = [*(float(one.opened_s) for one in outcome.phases), end]
    for index, (one, (begin, until)) in enumerate(
        zip(outcome.phases, pairwise(edges), strict=True)
    ):
        left, right = scale.x(begin), scale.x(max(begin, until))
        place = f'x="{left:.1f}" width="{right - left:.1f}"'
        odd = " odd" if index % 2 else ""
        words = f"phase {index + 1}: {one.name}"
        yield (
            f'<rect class="band{odd}" {place} y="{_TOP}" height="{_BOTTOM - _TOP}">'
            f"<title>{escape(words)}</title></rect>"
        )
        proved = scale.x(until if one.proved_s is None else min(one.proved_s, until))
        for kind, begins, ends in (("proving", left, proved), ("soaking", proved, right)):
            if ends > begins:
                yield (
                    f'<rect class="{kind}" x="{begins:.1f}" y="{_TOP - _STRIP - 4}" width="{ends - begins:.1f}"'
                    f' height="{_STRIP}"><title>{escape(f"{words}, {kind}")}</title></rect>'
                )
        room = int((right - left - 4) / _CHARACTER)
        label = next((text for text in (words, one.name, str(index + 1)) if len(text) <= room), "")
        if label:
            yield _text(label, left + 2, _TOP - _STRIP - 12)
    for x, kind, words in ((_LEFT, "proving", "proves itself"), (_LEFT + 150, "soaking", "soaks")):
        y = HEIGHT - 20
        yield f'<rect class="{kind}" x="{x}" y="{y}" width="24" height="{_STRIP}"/>'
        yield _text(words, x + 32, y + 9, "soft")


def _axes(scale: _Scale, tick: int) -> Iterator[str]:
    for count in range(0, scale.devices + 1, tick):
        y = scale.y(count)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(f"{count:,}", _LEFT - 8, y + 5, "soft", "end")
    step = next((one for one in _STEPS_S if scale.seconds / one <= _TICKS_MAX), _STEPS_S[-1])
    for at_s in range(0, int(scale.seconds) + 1, step):
        x = scale.x(at_s)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 6}"/>'
        yield _text(span(at_s) if at_s else "start", x, _BOTTOM + 24, "soft", "middle")


def _halt(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    stop = outcome.stop
    if stop is None:
        return
    x = scale.x(stop.at_s)
    words = "paused" if stop.halting is Halting.PAUSE else "aborted"
    yield f'<line class="halt" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - _STRIP - 4}" y2="{_BOTTOM}"/>'
    late = x > (_LEFT + _RIGHT) / 2
    yield _text(
        f"{words} after {span(stop.at_s)}",
        x - 8 if late else x + 8,
        _TOP + 20,
        "halt",
        "end" if late else "start",
    )


def _names(outcome: Outcome, bounds: Sequence[tuple[int, int]], scale: _Scale) -> Iterator[str]:
    """Each curve's name and last number at its end, moved apart where curves end together."""
    last = [one for one in outcome.curve if one.at_s <= scale.seconds][-1]
    ends = [(bounds[-1][1], "may be offered", "soft")]
    ends += [(getattr(last, name), name, name) for name in _CURVES]
    ends.sort(key=lambda one: one[0])  # lowest first; equal ones stay in order
    below = float(_BOTTOM + _LABEL_GAP)
    for count, words, kind in ends:
        below = min(scale.y(count) + 5, below - _LABEL_GAP)
        yield _text(f"{words} {count:,}", _RIGHT + 12, below, kind)


def _count_step(most: int) -> int:
    """1, 2 or 5 times a power of ten, so that there are at most six ticks."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if most <= digit * power * 6:
                return digit * power
        power *= 10


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _text(words: str, x: float, y: float, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style} text-anchor="{anchor}">{escape(words)}</text>'
