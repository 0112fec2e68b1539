"""route.py: what a device must pass through, where it may not go on, and what it may not skip."""

import pytest

from slipstream.server.rollout.route import Waypoint, blocked

BARRIER = Waypoint("2.0", 20, barrier=True, reason="new partition table")
DEAD_END = Waypoint("1.3", 13, dead_end=True)
LOWEST = Waypoint("3.0", 30, min_source=15)


@pytest.mark.parametrize(
    ("counter", "target", "waypoints", "words"),
    [
        (10, 30, [], None),
        (None, 30, [], None),
        (10, 30, [BARRIER], "must pass through 2.0 first: new partition table"),
        (10, 20, [BARRIER], None),  # to the barrier itself
        (10, 15, [BARRIER], None),  # not as far
        (20, 30, [BARRIER], None),
        (25, 30, [BARRIER], None),
        (None, 30, [BARRIER], "must pass through"),
        (None, 20, [BARRIER], None),
        (13, 30, [DEAD_END], "1.3 is a dead end"),
        (13, 13, [DEAD_END], None),
        (12, 30, [DEAD_END], None),
        (14, 30, [LOWEST], "wants a device on counter 15 or later"),
        (15, 30, [LOWEST], None),
        (None, 30, [LOWEST], "wants a device on counter 15"),
        (14, 40, [LOWEST], None),  # the rule of 3.0 is for those who take 3.0
        (10, 30, [LOWEST, BARRIER], "must pass through 2.0"),  # the first on the way
        (5, 30, [BARRIER, Waypoint("1.0", 10, barrier=True)], "must pass through 1.0"),
    ],
)
def test_the_way(
    counter: int | None, target: int, waypoints: list[Waypoint], words: str | None
) -> None:
    found = blocked(counter, target, waypoints)

    assert (found is None) if words is None else (found is not None and words in found)
