"""Which deltas are worth building, as a table."""

import pytest

from slipstream.delta.limits import DELTA_SHARE_ASSUMED
from slipstream.server.catalog import Catalog, DeltaOffer, ImageOffer, Release
from slipstream.server.deltas.census import (
    Pair,
    delta_share,
    pair_bytes,
    plan_pairs,
    saved_bytes,
)


def release(name, counter, *, deltas=(), root=None, size=1000):
    image = ImageOffer("rootfs", root or str(counter) * 64, size)
    return Release("gateway", name, counter, "stable", (image,), tuple(deltas))


def delta(source_counter, size):
    return DeltaOffer("rootfs", str(source_counter) * 64, None, size)


def catalog(*releases):
    return Catalog(tuple(sorted(releases, key=lambda one: -one.counter)), "", 0)


ONE, TWO, THREE = release("1.0", 1), release("2.0", 2), release("3.0", 3)
FLEET = {("gateway", "1.0"): 10, ("gateway", "2.0"): 50, ("other", "1.0"): 9}


def names(pairs):
    return [(one.source, one.target, one.devices) for one in pairs]


def test_the_pair_that_saves_most_comes_first():
    pairs = plan_pairs(catalog(ONE, TWO, THREE), [("gateway", "3.0")], FLEET, 0)
    assert names(pairs) == [("2.0", "3.0", 50), ("1.0", "3.0", 10)]
    assert pairs[0] == Pair(
        "gateway", "2.0", "3.0", 50, 50 * round(1000 * (1 - DELTA_SHARE_ASSUMED))
    )


@pytest.mark.parametrize(
    "found, targets, fleet, least",
    [
        (catalog(ONE, TWO), [("gateway", "2.0")], {("gateway", "1.0"): 1}, 10_000),  # too little
        (catalog(ONE, TWO), [("gateway", "1.0")], {("gateway", "2.0"): 9}, 0),  # backwards
        (catalog(ONE, TWO), [("gateway", "9.0")], FLEET, 0),  # not in the repository
        (catalog(TWO), [("gateway", "2.0")], {("gateway", "1.0"): 9}, 0),  # source is gone
        (catalog(ONE, release("2.0", 2, deltas=[delta(1, 10)])), [("gateway", "2.0")], FLEET, 0),
        (catalog(ONE, release("2.0", 2, root="1" * 64)), [("gateway", "2.0")], FLEET, 0),
        (catalog(ONE, release("2.0", 2, size=None)), [("gateway", "2.0")], FLEET, 0),
    ],
)
def test_pairs_that_are_not_worth_it(found, targets, fleet, least):
    assert plan_pairs(found, targets, fleet, least) == ()


def test_what_a_delta_takes_is_learned_from_those_there_are():
    found = catalog(ONE, release("2.0", 2, deltas=[delta(1, 100)]), THREE)
    assert delta_share(found.releases) == 0.1
    (first, *_) = plan_pairs(found, [("gateway", "3.0")], FLEET, 0)
    assert first.saving_bytes == 50 * 900
    assert pair_bytes(found, "gateway", "1.0", "2.0") == 100
    assert pair_bytes(found, "gateway", "2.0", "3.0") is None
    assert pair_bytes(found, "gateway", "0.0", "3.0") is None
    assert saved_bytes(found, "gateway", "2.0", {"1.0": 3, "0.0": 5, None: 1}) == 3 * 900
    assert saved_bytes(found, "gateway", "9.0", {"1.0": 3}) == 0
