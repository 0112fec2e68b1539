"""match.py: runs cover the target, say the truth, and prefer what needs the fewest frames."""

import itertools

import numpy as np
import pytest

from slipstream.delta.match import (
    GRAIN_BYTES,
    Run,
    RunKind,
    hash_grains,
    join_zeros,
    match_grains,
    verify_runs,
)


class Memory:
    """An image in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size
        return self.data[offset : offset + size]


def _image(text: str) -> bytes:
    """A grain for each letter; `.` is zeros."""
    return b"".join(
        bytes(GRAIN_BYTES) if letter == "." else np.random.default_rng(ord(letter)).bytes(1024)
        for letter in text
    )


def _runs(source: str, target: str) -> list[tuple[str, int, int, int]]:
    runs = match_grains(hash_grains(_image(source)), hash_grains(_image(target)))
    return [
        (run.kind.value[0], run.target // 1024, run.size // 1024, run.source // 1024)
        for run in runs
    ]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("", "", []),
        ("abc", "", []),
        ("", "ab.", [("c", 0, 2, 0), ("z", 2, 1, 0)]),
        ("abc", "abc", [("e", 0, 3, 0)]),
        ("abc", "xabc", [("c", 0, 1, 0), ("e", 1, 3, 0)]),
        ("abcdef", "defabc", [("e", 0, 3, 3), ("e", 3, 3, 0)]),
        # same offset first
        ("aab", "xab", [("c", 0, 1, 0), ("e", 1, 2, 1)]),
        # the diagonal of the run before goes on behind a change
        ("abcdccc", "zabXdcc", [("c", 0, 1, 0), ("e", 1, 2, 0), ("c", 3, 1, 0), ("e", 4, 3, 3)]),
        # else the longest
        ("ab_abc_", "Xabc", [("c", 0, 1, 0), ("e", 1, 3, 3)]),
        ("a.b", "a.b", [("e", 0, 1, 0), ("z", 1, 1, 0), ("e", 2, 1, 2)]),
    ],
)
def test_runs(source: str, target: str, expected: list[tuple[str, int, int, int]]) -> None:
    assert _runs(source, target) == expected


def test_runs_cover_and_are_true_on_random_images() -> None:
    random = np.random.default_rng(7)
    for _ in range(60):
        source = "".join(random.choice(list("abcd."), int(random.integers(0, 60))))
        target = "".join(random.choice(list("abcde."), int(random.integers(0, 60))))
        runs = match_grains(hash_grains(_image(source)), hash_grains(_image(target)))
        joined = join_zeros(runs, hash_grains(_image(source)), 4 * GRAIN_BYTES)
        for each in (runs, joined):
            assert sum(run.size for run in each) == len(target) * GRAIN_BYTES
            assert all(one.end == two.target for one, two in itertools.pairwise(each))
            images = Memory(_image(source)), Memory(_image(target))
            assert list(verify_runs(each, *images)) == each


def test_a_lying_hash_becomes_changed() -> None:
    source, target = Memory(_image("abc.")), Memory(_image("abX."))
    runs = [Run(RunKind.EQUAL, 0, 3072, 0), Run(RunKind.ZERO, 2048, 1024)]
    assert list(verify_runs(runs, source, target)) == [
        Run(RunKind.CHANGED, 0, 3072),
        Run(RunKind.CHANGED, 2048, 1024),
    ]


def test_zeros_join_the_run_before_them_when_the_source_has_them_too() -> None:
    hashes = hash_grains(_image("a..b"))
    runs = match_grains(hashes, hashes)
    assert join_zeros(runs, hashes, 4096) == [Run(RunKind.EQUAL, 0, 4096, 0)]
    assert join_zeros(runs, hashes, 2048) == runs
    assert len(join_zeros(runs, hash_grains(_image("a.cb")), 4096)) == 3


def test_grain_hashes() -> None:
    assert hash_grains(bytes(4096)).tolist() == [0, 0, 0, 0]
    assert len(hash_grains(bytes(1023))) == 0
    grains = {hash_grains(bytes(at) + b"\x80" + bytes(1023 - at))[0] for at in range(1024)}
    assert len(grains) == 1024
    words = {hash_grains((1 << bit).to_bytes(1024, "little"))[0] for bit in range(8192)}
    assert len(words) == 8192


def test_repeating_grains_take_few_steps() -> None:
    # 20,000 equal grains that are not zero: one run, not 20,000 candidates each
    hashes = np.full(20_000, 5, np.uint64)
    assert len(match_grains(hashes, hashes[:-1])) == 1
    other = hashes.copy()
    other[::2] = 6
    assert len(match_grains(other, other[1:])) <= 2
