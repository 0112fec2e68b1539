"""Which releases a device may take from where it stands: barriers, dead ends, lowest sources.

The rules belong to releases, not to rollouts; Fedora CoreOS' graph has barriers and dead ends,
Memfault calls the first must-pass-through.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waypoint:
    """What an operator says of a release, for the devices that run or want it."""

    release: str
    counter: int
    barrier: bool = False  # later releases are only for devices that have come this far
    dead_end: bool = False  # from here no update leads on; a person must look
    min_source: int = 0  # lowest counter of a device that may take it
    reason: str = ""


def blocked(counter: int | None, target: int, waypoints: Iterable[Waypoint]) -> str | None:
    """Why a device on release counter `counter` may not take the one of `target`, or None.

    A device that does not know its counter passes no barrier.
    """
    here = -1 if counter is None else counter
    for one in sorted(waypoints, key=lambda one: one.counter):
        because = f": {one.reason}" if one.reason else ""
        if one.dead_end and one.counter == here and target > here:
            return f"{one.release} is a dead end{because}"
        if one.barrier and here < one.counter < target:
            return f"it must pass through {one.release} first{because}"
        if one.counter == target and max(here, 0) < one.min_source:
            return f"{one.release} wants a device on counter {one.min_source} or later{because}"
    return None
