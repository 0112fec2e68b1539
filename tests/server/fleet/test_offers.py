"""What a device is offered, as a table."""

import pytest

from slipstream.server.catalog import Catalog, ImageOffer, Release
from slipstream.server.fleet.offers import newest
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.offer import Install, Standing, Stay

ROOT, OTHER = "a" * 64, "b" * 64
NEWEST = Release("gateway", "2.0", 2, "stable", (ImageOffer("rootfs", ROOT, 1),))


CATALOG = Catalog((NEWEST,), "2030-01-01T00:00:00Z", 0)


def standing(*, floor=1, trial=False, failed=(), **facts):
    known = {"release": "1.0", "counter": 1, "booted_root": OTHER, **facts}
    return Standing(Facts("d1", "gateway", **known), floor, trial, dict.fromkeys(failed, "bad"))


INSTALL = [
    {},
    {"counter": 0, "release": None},
    {"release": "2.0", "counter": 1},  # the counter is what counts
    {"booted_root": ROOT},  # the same root filesystem under another kernel
    {"floor": 2},
    {"failed": frozenset({"1.5"})},
    {"counter": None, "release": None, "booted_root": None},
    {"counter": None, "release": None, "booted_root": OTHER},
    {"counter": None, "release": "1.0", "booted_root": ROOT},
]
STAY = [
    ({"counter": 2, "release": "2.0"}, "already on 2.0"),
    ({"counter": 2, "release": None}, "already on 2.0"),
    ({"counter": None, "release": "2.0"}, "already on 2.0"),
    ({"counter": None, "release": None, "booted_root": ROOT}, "already on 2.0"),
    ({"trial": True}, "trial"),
    ({"trial": True, "counter": 2}, "trial"),
    ({"failed": frozenset({"2.0"})}, "failed"),
    ({"floor": 3}, "floor"),
    ({"counter": 3, "release": "3.0"}, "newer than"),
]


@pytest.mark.parametrize("more", INSTALL)
def test_install(more):
    decision = newest(standing(**more), CATALOG)
    assert decision == Install("2.0", 2, "newest in channel stable")


@pytest.mark.parametrize("more, reason", STAY)
def test_stay(more, reason):
    decision = newest(standing(**more), CATALOG)
    assert isinstance(decision, Stay)
    assert reason in decision.reason


def test_nothing_published():
    assert isinstance(newest(standing(), Catalog((), "", 0)), Stay)
