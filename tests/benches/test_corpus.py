"""The corpus is consistent: its rows name what exists, and a slot has one size."""

from benches.corpus import PAIRS, ROWS
from benches.kinds import KINDS
from benches.trees import TREES


def test_every_kind_and_pair_has_a_row() -> None:
    assert {row.kind.name for row in ROWS.values()} == set(KINDS)
    assert {row.pair.name for row in ROWS.values()} == set(PAIRS)


def test_both_images_of_a_pair_fill_the_same_slot() -> None:
    assert [
        pair.name for pair in PAIRS.values() if pair.source.image_bytes != pair.target.image_bytes
    ] == []


def test_trees_of_one_recipe_are_the_same_files() -> None:
    by_recipe = {}
    for tree in TREES.values():
        facts = (tree.suite, tree.later, tree.large, tree.more)
        assert by_recipe.setdefault(tree.recipe, facts) == facts
