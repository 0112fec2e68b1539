"""The goals of the table: every row has one, and those that the engine was built for are its own."""

import pytest

from benches.corpus import ROWS
from benches.goals import ANY, size_goal


@pytest.mark.parametrize(
    ("row", "goal"),
    [
        ("full/ext4-4k", 0.33),
        ("small/erofs", 0.5),
        ("full/squashfs-xz", 0.15),
        ("small/erofs-lz4hc-64k", 0.2),
        ("one/squashfs-zstd", ANY),
        ("full/kernel", ANY),
        ("unrelated/squashfs-zstd", ANY),
    ],
)
def test_a_row_is_held_to_its_goal(row: str, goal: float) -> None:
    assert size_goal(ROWS[row]) == goal


def test_no_row_may_come_near_the_smallest_peer() -> None:
    assert max(size_goal(row) for row in ROWS.values()) <= ANY
