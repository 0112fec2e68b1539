"""cursors.py: never more held at once than there is room for, never more streams than a payload has."""

from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.cursors import Cursors
from slipstream.delta.limits import LONG_STREAMS_MAX


def test_what_was_read_longest_ago_is_ended() -> None:
    cursors = Cursors({1: 10, 2: 10, 3: 10})
    assert cursors.barred(25) == set()
    assert cursors.take([1], 25) == set()
    assert cursors.take([2], 25) == set()
    assert cursors.take([1], 25) == set()
    assert cursors.take([3], 25) == set()  # in the place of 2
    assert cursors.barred(25) == {2}
    assert cursors.take([1, 3], 25) == set()


def test_streams_of_one_frame_do_not_end_each_other() -> None:
    cursors = Cursors({1: 10, 2: 10, 3: 10})
    assert cursors.take([1, 2, 3], 25) == {3}
    assert cursors.barred(25) == set()
    assert cursors.take([3, 2], 25) == set()
    assert cursors.barred(25) == {1}


def test_a_frame_with_less_room_ends_what_does_not_fit_beside_it() -> None:
    cursors = Cursors({1: 10, 2: 10, 3: 30})
    cursors.take([1, 2], 40)
    assert cursors.barred(15) == {1, 3}
    assert cursors.barred(40) == {1}
    assert cursors.barred(-1) == {1, 2, 3}
    assert cursors.barred(40) == {1, 2}


def test_no_more_streams_than_a_payload_may_have() -> None:
    cursors = Cursors(dict.fromkeys(range(LONG_STREAMS_MAX + 5), 1))
    read = [one for one in range(LONG_STREAMS_MAX + 5) if not cursors.take([one], 1)]
    assert len(read) == LONG_STREAMS_MAX
    assert cursors.barred(1) == set(range(LONG_STREAMS_MAX + 5)) - {read[-1]}


@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 50), min_size=1),
    st.lists(
        st.tuples(st.lists(st.integers(0, 9), unique=True), st.integers(-5, 120)), max_size=30
    ),
)
def test_what_is_held_always_fits(
    costs: dict[int, int], frames: list[tuple[list[int], int]]
) -> None:
    cursors = Cursors(costs)
    reads: list[tuple[set[int], int]] = []
    for asked, room in frames:
        barred = cursors.barred(room)
        wanted = [one for one in asked if one in costs and one not in barred]
        refused = cursors.take(wanted, room)
        assert refused <= set(wanted)
        reads.append((set(wanted) - refused, room))
    for number, (_, room) in enumerate(reads):
        before = set().union(*(read for read, _ in reads[: number + 1]))
        behind = set().union(*(read for read, _ in reads[number:]))
        held = sum(costs[one] for one in before & behind)  # from its first frame to its last
        assert held <= max(room, 0)
