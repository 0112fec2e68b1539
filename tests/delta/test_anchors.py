"""anchors.py: equal content has equal anchors; votes find it; budgets hold."""

import numpy as np
import pytest

from slipstream.delta.anchors import (
    ANCHOR_BYTES,
    Pairs,
    choose_sources,
    clip,
    find_anchors,
    join_anchors,
    pair_anchors,
)
from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import KIB, MIB


def _random(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def _nothing() -> Pairs:
    empty = np.empty(0, np.int64)
    return Pairs(empty, empty, np.empty(0, np.float64))


def test_one_position_in_128_is_an_anchor() -> None:
    count = len(find_anchors(_random(MIB), 0).offsets)
    assert 6000 < count < 10_500


def test_anchors_move_with_the_content() -> None:
    data = _random(100_000)
    here = find_anchors(data, 0)
    there = find_anchors(_random(777, seed=2) + data, 5000)
    moved = there.offsets - 5777
    inside = moved >= 0
    assert (moved[inside] == here.offsets).all()
    assert (there.keys[inside] == here.keys).all()


def test_pieces_that_overlap_find_all() -> None:
    data = _random(100_000)
    parts = [
        find_anchors(data[at : at + 30_000 + ANCHOR_BYTES - 1], at)
        for at in range(0, 100_000, 30_000)
    ]
    joined = join_anchors(parts)
    assert (joined.offsets == find_anchors(data, 0).offsets).all()


@pytest.mark.parametrize("period", [1, 2, 3, 7, 16])
def test_periodic_content_makes_few_anchors(period: int) -> None:
    for seed in range(40):  # one in 128 periods has an anchor; whole blocks of them are dropped
        data = _random(period, seed) * (MIB // period)
        assert len(find_anchors(data, 0).offsets) <= MIB // 16


def test_no_anchors_in_little_or_no_data() -> None:
    assert len(find_anchors(b"", 0).offsets) == 0
    assert len(find_anchors(bytes(31), 0).offsets) == 0
    assert len(join_anchors([]).offsets) == 0


def test_votes_find_moved_content() -> None:
    file = _random(256 * KIB)
    source = _random(3 * MIB, 2) + file + _random(MIB, 3)
    target = _random(64 * KIB, 4) + file
    pairs = pair_anchors(find_anchors(source, 0), find_anchors(target, 0))
    window = ByteRange(64 * KIB, len(file))
    chosen = choose_sources(pairs.within([window]), [], len(source), MIB)
    assert sum(part.size for part in chosen) <= 320 * KIB
    assert chosen[0].offset <= 3 * MIB
    assert chosen[-1].end >= 3 * MIB + len(file)


def test_content_in_many_places_does_not_vote() -> None:
    page = _random(8 * KIB)
    pairs = pair_anchors(find_anchors(page * 9, 0), find_anchors(page, 0))
    inside = find_anchors(page, 0)
    assert len(inside.offsets) > 20
    assert len(pairs.targets) == 0


def test_budget_holds_and_best_votes_win() -> None:
    offsets = np.concatenate([np.arange(0, 64 * KIB, 64), [5 * MIB]])
    votes = Pairs(offsets, offsets, np.ones(len(offsets)))
    both = choose_sources(votes, [], 10 * MIB, 100 * KIB)
    assert [part.offset for part in both] == [0, 5 * MIB - 8 * KIB]
    one = choose_sources(votes, [], 10 * MIB, 80 * KIB)
    assert [part.offset for part in one] == [0]
    assert sum(part.size for part in one) <= 80 * KIB


def test_no_votes_no_sources_and_hints_are_cut_to_the_source() -> None:
    assert choose_sources(_nothing(), [], MIB, MIB) == ()
    hints = [(ByteRange(MIB - 10, 5000), 1.0)]
    (chosen,) = choose_sources(_nothing(), hints, MIB, MIB)
    assert chosen.end == MIB
    assert choose_sources(_nothing(), hints, MIB, 100) == ()


def test_pairs_of_several_ranges_and_in_areas() -> None:
    targets = np.arange(0, 1000, 10)
    pairs = Pairs(targets, targets + 5000, np.ones(len(targets)))
    some = pairs.within([ByteRange(100, 50), ByteRange(700, 15)])
    assert some.targets.tolist() == [100, 110, 120, 130, 140, 700, 710]
    areas = (ByteRange(0, 5111), ByteRange(5130, 570), ByteRange(5710, 1))
    assert some.inside(areas).sources.tolist() == [5100, 5110, 5130, 5140, 5710]
    assert pairs.within([ByteRange(10_000, 5)]).targets.size == 0


def test_an_anchor_in_too_many_places_says_nothing_and_in_few_counts_less() -> None:
    file = _random(20 * KIB)
    for copies in (1, 2, 3):
        pairs = pair_anchors(find_anchors(file * copies, 0), find_anchors(file, 0))
        inside = pairs.within([ByteRange(1000, 15 * KIB)])
        assert inside.weights.max() == pytest.approx(1 / copies)


def test_clip() -> None:
    ranges = (ByteRange(0, 100), ByteRange(200, 100), ByteRange(400, 10))
    areas = (ByteRange(50, 10), ByteRange(90, 120), ByteRange(290, 50))
    assert clip(ranges, areas) == (
        ByteRange(50, 10),
        ByteRange(90, 10),
        ByteRange(200, 10),
        ByteRange(290, 10),
    )
    assert clip(ranges, ()) == ()


def test_a_block_of_a_short_period_takes_no_anchor_from_its_neighbours() -> None:
    block = 16 * KIB
    repeated = next(
        data
        for data in (_random(7, seed) * block for seed in range(400))
        if len(find_anchors(data[: 4 * ANCHOR_BYTES], 0).offsets)
    )[: 2 * block]
    around = _random(block, 6)
    found = find_anchors(around + repeated + around, 0).offsets
    alone = find_anchors(around, 0).offsets
    assert len(alone) > 90
    assert len(find_anchors(repeated, 0).offsets) == 0
    assert found[: len(alone)].tolist() == alone.tolist()
    assert found[-len(alone) :].tolist() == (alone + 3 * block).tolist()
