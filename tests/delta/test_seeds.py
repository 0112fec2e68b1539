"""seeds.py: matches are true and the longest among their candidates; runs fill no chain."""

import numpy as np
import pytest

from slipstream.delta.seeds import SEED_BYTES, _longest, _meet, index_seeds, scan_seeds

BITS = np.uint64(10)


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _index(source: bytes) -> tuple[np.ndarray, np.ndarray]:
    heads, links = np.empty(1 << int(BITS), np.int32), np.full(len(source), -7, np.int32)
    index_seeds(_bytes(source), heads, links, BITS)
    return heads, links


def _random(size: int, letters: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, letters, size, dtype=np.uint8).tobytes()


def _find(source: bytes, target: bytes, at: int, candidates: int, shift: int = 0) -> tuple:
    return _longest(_bytes(source), _bytes(target), *_index(source), BITS, candidates, at, shift)


@pytest.mark.parametrize("letters", [2, 3, 8])
def test_the_longest_of_all_candidates_is_that_of_a_plain_search(letters: int) -> None:
    source = _random(2000, letters, 1)
    target = _random(50, letters, 2) + source[300:420] + _random(30, letters, 3) + source[:60]
    for at in range(len(target) - SEED_BYTES + 1):
        size, place, _ = _find(source, target, at, len(source))
        longest = max(
            size for size in range(len(target) - at + 1) if target[at : at + size] in source
        )
        assert size == (longest if longest >= SEED_BYTES else 0)
        assert source[place : place + size] == target[at : at + size]


def test_only_the_last_candidates_are_looked_at() -> None:
    seed = _random(16, 256, 4)
    source = seed + b"the longest of them" + b"".join(seed + bytes([n]) * 20 for n in range(5))
    target = seed + b"the longest of them"
    assert _find(source, target, 0, 6)[:2] == (len(target), 0)
    size, place, compared = _find(source, target, 0, 5)
    assert size == 16
    assert place > 0
    assert compared <= 5 * 17


def test_of_equal_matches_the_nearest_to_the_open_diagonal() -> None:
    word = _random(20, 256, 5)
    source = word + b"a" + word + b"b" + word + b"c"
    for shift, expected in ((0, 0), (19, 21), (50, 42)):
        assert _find(source, word + b"z", 0, 8, shift)[:2] == (20, expected)


def test_a_run_has_one_place() -> None:
    heads, _ = _index(bytes(5000) + b"x" * 5000)
    assert (heads >= 0).sum() == 1 + SEED_BYTES  # zeros, eleven seeds over the border, and x
    assert min(heads[heads >= 0]) == 0
    assert max(heads[heads >= 0]) == 5000


@pytest.mark.parametrize("size", [0, 1, SEED_BYTES - 1])
def test_sources_without_a_seed(size: int) -> None:
    heads, links = _index(_random(size, 256, 1))
    assert (heads == -1).all()
    rows = np.empty((9, 3), np.int64)
    target = _bytes(_random(100, 256, 2))
    source = _bytes(_random(size, 256, 1))
    assert scan_seeds(source, target, heads, links, BITS, 4, 0, rows)[0] == 0


def test_diagonals_meet_where_they_miss_least() -> None:
    source = _bytes(b"aaaaaaaaaa" + b"bbbbbbbbbb" + b"-" * 40)
    target = _bytes(b"aaaaaaa??bbbbb" + b"bbbbbb")
    # the first diagonal fits up to 7, the second from 9 on
    assert _meet(source, target, 0, 14, 0, 1) == (7, 9)
    assert _meet(source, target, 3, 3, 0, 1) == (3, 3)
