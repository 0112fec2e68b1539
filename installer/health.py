"""Health: the commands that a release must pass before it is confirmed.

A check is a command, its name and a time limit (config.py, [[health]]). It passes when it exits 0
in time. Its output is kept, bounded, because it is what tells a person why a release fell back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.installer.command import run_for_output
from slipstream.installer.config import HealthCheck

_REASON_CHARS = 1000  # of all checks together: a report's reason has at most 1024


@dataclass(frozen=True, slots=True)
class HealthResult:
    """How one check went. `exit_code` is None if it did not end by itself."""

    name: str
    passed: bool
    reason: str
    output: str
    exit_code: int | None


async def run_health(checks: Sequence[HealthCheck]) -> tuple[HealthResult, ...]:
    """Run all checks, one after the other: a failure does not hide the next one.

    Never raises for what a command does. When cancelled, the running command is killed.
    """
    return tuple([await run_check(check) for check in checks])


def reason_of(results: Sequence[HealthResult]) -> str | None:
    """Why the release is not healthy, in one line; None if it is."""
    reason = "; ".join(result.reason for result in results if not result.passed)
    return reason[:_REASON_CHARS] or None


async def run_check(check: HealthCheck) -> HealthResult:
    """Run one check. Never raises for what the command does."""
    result = await run_for_output(check.command, check.timeout_s)
    reason = ""
    if result.code != 0:
        reason = f"health check {check.name} {result.how}"
        reason += f": {result.last_line}" if result.last_line else ""
    return HealthResult(check.name, result.code == 0, reason, result.output, result.code)
