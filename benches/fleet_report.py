"""docs/server-load.md and docs/server-load.json, from the figures of benches/fleet.py."""

import json
import os
import platform
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def write(
    rows: Sequence[Mapping[str, Any]],
    memory: Mapping[str, float],
    options: Sequence[str],
    load: float,
) -> None:
    """Write both files. `load`: the machine's before the run."""
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load_before": round(load, 1),
        "date": time.strftime("%Y-%m-%d"),
    }
    command = " ".join(["python -m benches.fleet", *options])
    whole = {"command": command, "machine": machine, "fleets": rows, "downloads": memory}
    (DOCS / "server-load.json").write_text(json.dumps(whole, indent=1) + "\n")
    (DOCS / "server-load.md").write_text(page(rows, memory, command, machine))


def page(
    rows: Sequence[Mapping[str, Any]],
    memory: Mapping[str, float],
    command: str,
    machine: Mapping[str, Any],
) -> str:
    """The text of docs/server-load.md."""
    lines = [
        "# The server under load",
        "",
        f"Written by `{command}` (`make bench-server`) on {machine['date']}: {machine['processor']},",
        f"{machine['cores']} cores that the server, its database and the load generator shared; load",
        f"{machine['load_before']} before the run; Python {machine['python']}, SQLite",
        f"{machine['sqlite']}, PostgreSQL 15 without fsync. One server process. The same as numbers:",
        "[server-load.json](server-load.json). Three devices of four speak /v1, the fourth DDI.",
        "",
        "## Polls with nothing to install",
        "",
        "Back to back on 32 connections (median of three rounds), then both kinds at random moments",
        f"with {rows[0]['rate_per_s']:.0f} a second on average, which is 100,000 devices that poll"
        if rows
        else "",
        "every five minutes; times from the moment that a poll was due.",
        "",
        (
            "| database | devices | /v1 polls/s | processor each | DDI polls/s | processor each |"
            " p50 | p95 | p99 | of a core | waited | statements per poll | resident |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(f"{one:.1f} ms" for one in row["percentiles_ms"].values())
        lines.append(
            f"| {row['database']} | {row['devices']:,} | {row['native_per_s']:,.0f} |"
            f" {row['native_cpu_ms']:.2f} ms | {row['ddi_per_s']:,.0f} | {row['ddi_cpu_ms']:.2f} ms |"
            f" {times} | {row['rate_cpu_percent']:.0f} % |"
            f" {row['rate_waited_percent']:.0f} % | {row['statements_per_poll']:.2f} |"
            f" {row['resident_mb']:.0f} MB |"
        )
    lines += [
        "",
        "Waited: how much of that time the server was ready to run while others had the processors.",
        "Statements per poll are all that the server sent to its database meanwhile, its own look at",
        "rollouts and the writing of last-seen times included; a poll itself is one, which",
        "tests/server/test_poll_cost.py counts.",
        "",
        "## A rollout over all devices",
        "",
        "Every device polls once while the first phase is handed out, then its devices act: some fail",
        "to fetch it, some fall back, some fall silent. Decided: from the report that decides to the",
        "first offer of the next phase, as a polling device sees it.",
        "",
        "| database | devices | created in | all polled at | phase | offered | outcomes | decided in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        outcomes = ", ".join(f"{value} {key}" for key, value in sorted(row["outcomes"].items()))
        lines.append(
            f"| {row['database']} | {row['devices']:,} | {row['create_s'] * 1e3:.0f} ms |"
            f" {row['sweep_per_s']:,.0f}/s | {row['phase']} | {row['offered']} | {outcomes} |"
            f" {row['decide_s']:.2f} s |"
        )
    lines += [
        "",
        "## Downloads",
        "",
        (
            f"{memory['downloads']:,} ranges of {memory['range_bytes'] >> 20} MiB, {memory['at_once']:,}"
            f" of them at once, each read slowly: {memory['seconds']:.0f} s,"
        ),
        (
            f"{memory['mb_per_s']:.0f} MB/s. Resident memory of the server: {memory['before_mb']:.0f} MB"
            f" before, {memory['peak_mb']:.0f} MB at most, {memory['after_mb']:.0f} MB after."
        ),
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    name = text.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    return name or platform.machine()
