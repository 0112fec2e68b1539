"""The audit log's chain: what is done to it behind the server's back is found."""

from dataclasses import replace

import pytest

from slipstream.server.chain import START, Entry, Verifier, seal

FIELDS = {"at": 5, "actor": "x", "act": "x", "object": "x", "before": "x", "after": "x"}


def chain(number):
    rows, previous = [], START
    for index in range(1, number + 1):
        entry = Entry(index, 100 + index, "ada", "rollout.pause", f"rollout {index}", "{}", "")
        rows.append(seal(previous, entry))
        previous = rows[-1].digest
    return rows


def verify(rows, head):
    verifier = Verifier()
    verifier.feed(rows)
    return verifier.finish(len(head), head[-1].digest if head else START)


def test_a_whole_chain_holds():
    for number in (0, 1, 5):
        assert verify(chain(number), chain(number)) is None


def test_it_may_be_fed_in_pieces():
    rows, verifier = chain(5), Verifier()
    for row in rows:
        verifier.feed([row])
    assert verifier.finish(5, rows[-1].digest) is None


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_is_found(name):
    rows = chain(5)
    rows[2] = replace(rows[2], entry=replace(rows[2].entry, **{name: FIELDS[name]}))
    assert verify(rows, chain(5)).row == 3


@pytest.mark.parametrize("gone", range(5))
def test_a_removed_row_is_found(gone):
    rows = chain(5)
    del rows[gone]
    assert verify(rows, chain(5)).row == gone + 1


def test_reordered_rows_are_found_even_with_their_numbers_mended():
    rows = chain(5)
    moved = replace(rows[3], entry=replace(rows[3].entry, id=2))
    rows[1], rows[3] = moved, replace(rows[1], entry=replace(rows[1].entry, id=4))
    assert verify(rows, chain(5)).row == 2
    rows = chain(5)
    rows[1], rows[3] = rows[3], rows[1]
    assert verify(rows, chain(5)).row == 2


def test_rows_sealed_again_behind_a_change_have_another_end():
    rows = chain(5)
    rows[2] = seal(rows[1].digest, replace(rows[2].entry, actor="eve"))
    for index in (3, 4):
        rows[index] = seal(rows[index - 1].digest, rows[index].entry)
    assert "head" in verify(rows, chain(5)).reason


def test_fields_do_not_run_into_each_other():
    one = Entry(1, 1, "a", "b", "c", "", "")
    assert seal(START, one).digest != seal(START, replace(one, actor="ab", act="")).digest
