"""The simulated fleet, small: it finds what it asserts, and its figures are figures."""

import asyncio
from dataclasses import asdict

from benches import fleet_report
from benches.fleet import fleet, measure, measure_downloads


def test_a_small_fleet_is_rolled_out_and_reported():
    with fleet("SQLite", 120) as server:
        row = measure(server, "SQLite", 120, polls=200, seconds=0.5)
        memory = asyncio.run(measure_downloads(server, 20, pause_s=0.05))
    # Every device polled once, and the phase, all of it, was offered the release.
    assert row.offered == row.phase == 40
    assert row.outcomes == {"fetch": 1, "boot": 1, "confirmed": 38}
    assert 1 <= row.statements_per_poll < 2
    assert memory["at_once"] == 20
    text = fleet_report.page(
        [asdict(row)],
        memory,
        "the command",
        {
            "date": "2026-01-01",
            "processor": "any",
            "cores": 2,
            "load_before": 0,
            "python": "3",
            "sqlite": "3",
        },
    )
    line = next(one for one in text.splitlines() if one.startswith("| SQLite | 120 |"))
    assert f"{row.native_per_s:,.0f}" in line
