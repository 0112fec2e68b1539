"""packing_speed.py: a figure for every packer, and the slower one where a level is between two."""

import pytest

from slipstream.delta.packing.recipe import PARAMETERS, Packer
from slipstream.server.packing_speed import SPEEDS, packing_s
from tests.delta.payloads import recipe_of


@pytest.mark.parametrize("packer", Packer)
def test_every_level_of_every_packer_has_a_figure(packer: Packer) -> None:
    levels = [level for level, _ in SPEEDS[packer]]
    number = 1 if packer is Packer.LZO else 0

    assert levels == sorted(set(levels))
    assert levels[-1] == PARAMETERS[packer][number].most
    assert all(speed > 0 for _, speed in SPEEDS[packer])


def test_a_level_between_two_takes_as_long_as_the_slower() -> None:
    between, above = recipe_of(Packer.ZLIB, 7, 15, 8, 0), recipe_of(Packer.ZLIB, 9, 15, 8, 0)

    assert packing_s(between, 10**6) == packing_s(above, 10**6)
    assert packing_s(between, 3 * 10**6) == pytest.approx(3 * packing_s(between, 10**6))


def test_a_level_that_was_measured_has_its_own_figure() -> None:
    for level, speed in SPEEDS[Packer.ZLIB]:
        assert packing_s(recipe_of(Packer.ZLIB, level, 15, 8, 0), 10**6) == 1 / speed


def test_the_level_of_lzo_is_that_of_its_best_algorithm() -> None:
    assert packing_s(recipe_of(Packer.LZO, 0, 0), 10**6) < packing_s(
        recipe_of(Packer.LZO, 4, 9), 10**6
    )
