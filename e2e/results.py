"""Results of a run: one JSON file, and a table for people."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """How a case ended. Seconds of wall clock; processor seconds of QEMU, all of its threads."""

    name: str
    passed: bool
    seconds: float
    processor_s: float
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def write_results(path: Path, results: list[Result]) -> None:
    """All results so far, as JSON."""
    path.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")


def render_table(results: list[Result]) -> str:
    """One line a case, then the facts."""
    lines = [f"{'case':16} {'':6} {'seconds':>8} {'of processor':>13}"]
    for one in results:
        verdict = "passed" if one.passed else "FAILED"
        lines.append(f"{one.name:16} {verdict:6} {one.seconds:8.0f} {one.processor_s:13.0f}")
        lines += [f"    {key}: {value}" for key, value in one.facts.items() if key != "cuts"]
        lines += [f"    {cut}" for cut in one.facts.get("cuts", ())]
        if one.error:
            lines.append(f"    {one.error.splitlines()[0][:300]}")
    return "\n".join(lines)
