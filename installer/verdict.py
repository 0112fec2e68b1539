"""What the look at a trial found and did, as a value."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from slipstream.installer.health import HealthResult

OnEvent = Callable[[str], None]


class Verdict(StrEnum):
    """What settle found and did."""

    NOTHING = "nothing"  # no trial, or an install that goes on
    CONFIRMED = "confirmed"
    CONDEMNED = "condemned"  # reboot: the other release comes back
    UNHEALTHY = "unhealthy"  # and nothing to fall back to: asked again later
    FELL_BACK = "fell back"
    REBOOT = "reboot"  # the next boot tries the release


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict, on which release, why, and how the health checks went."""

    verdict: Verdict
    release: str = ""
    counter: int = 0
    reason: str = ""
    health: tuple[HealthResult, ...] = ()

    @property
    def reboot_wanted(self) -> bool:
        return self.verdict in (Verdict.REBOOT, Verdict.CONDEMNED)


def silent(_: str) -> None:
    """Nobody listens."""
