"""Draws payload sizes: one picture for a kind of image, one panel for each pair of releases.

The same figures give the same SVG: no date, and element names from a fixed salt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benches.contest import Contender
from benches.corpus import Row
from benches.ours import OURS
from benches.results import RowResults

MB = 1_000_000
OURS_COLOUR, PEER_COLOUR = "#0b6e4f", "#b8bec5"
_BAR_INCHES = 0.28


def draw(
    measured: Sequence[tuple[Row, RowResults]], contenders: Mapping[str, Contender], output: Path
) -> None:
    """Write an SVG of the measured rows, which are of one kind."""
    bars = [
        [name for name, cell in results.cells.items() if not cell.skipped and name in contenders]
        for _, results in measured
    ]
    heights = [_BAR_INCHES * max(1, len(names)) + 0.9 for names in bars]
    # Text stays text: smaller, searchable, and the same whatever fonts a machine has.
    with mpl.rc_context({"svg.hashsalt": "slipstream", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, sum(heights)), layout="constrained")
        panels = figure.subplots(
            len(measured), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, names, (row, results) in zip(panels[:, 0], bars, measured, strict=True):
            _panel(
                axes, row, {name: results.cells[name].payload_bytes for name in names}, contenders
            )
        figure.savefig(output, format="svg", metadata={"Date": None})


def _panel(
    axes: Axes, row: Row, sizes: Mapping[str, int], contenders: Mapping[str, Contender]
) -> None:
    # Largest at the bottom: the eye starts with the best.
    names = sorted(sizes, key=lambda name: sizes[name], reverse=True)
    bars = axes.barh(
        [contenders[name].title for name in names],
        [sizes[name] / MB for name in names],
        color=[OURS_COLOUR if name in OURS else PEER_COLOUR for name in names],
    )
    axes.bar_label(bars, labels=[f" {sizes[name] / MB:,.2f}" for name in names])
    axes.set_title(row.pair.title, loc="left", fontsize="medium")
    axes.set_xlabel("payload, MB")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
