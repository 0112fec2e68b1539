"""The order of versions, against the specification's examples and systemd's own word."""

import itertools
import random
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.version_order import compare_versions

ANALYZE = shutil.which("systemd-analyze")

# UAPI Version Format Specification, oldest first.
ORDERED = [
    "~rc1", "", "1~rc1", "1", "1-a", "1-a.1", "1-1", "1-1.1", "1^post1", "1.a-1", "1.1-1",
    "1a-1", "2-1", "9", "10", "122.1", "123~rc1-1", "123", "124-1",
]  # fmt: skip


@pytest.mark.parametrize("a, b", list(itertools.pairwise(ORDERED)))
def test_examples_of_the_specification(a: str, b: str) -> None:
    assert compare_versions(a, b) == -1
    assert compare_versions(b, a) == 1
    assert compare_versions(a, a) == 0


@pytest.mark.parametrize(
    "a, b",
    [("123_a", "123a"), ("00123", "123"), ("1.0", "1.00"), ("a+1", "a1"), ("_", "")],
)
def test_equal_in_other_words(a: str, b: str) -> None:
    assert compare_versions(a, b) == compare_versions(b, a) == 0


def test_our_own_names() -> None:
    assert compare_versions("0042a.efi", "0041b.efi") == 1
    assert compare_versions("10000a.efi", "9999b.efi") == 1
    assert compare_versions("10-2.0", "9-9.0") == 1
    # With both names of one entry the counted one stands first.
    assert compare_versions("0042a+2-1.efi", "0042a.efi") == 1


VERSIONS = st.text(alphabet="019aAz~-^._+ é", max_size=8)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_is_an_order(a: str, b: str, c: str) -> None:
    assert compare_versions(a, b) == -compare_versions(b, a)
    if compare_versions(a, b) <= 0 and compare_versions(b, c) <= 0:
        assert compare_versions(a, c) <= 0


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze (Debian: systemd)")
def test_systemd_says_the_same() -> None:
    """`systemd-analyze compare-versions A B` prints `A < B`, `A == B` or `A > B`."""
    rng = random.Random(20261123)
    alphabet = ["0", "1", "9", "10", "a", "B", "rc", "~", "-", "^", ".", "_", "+"]
    pairs = [("0042a.efi", "0042a+2-1.efi"), ("2.0", "10.0")]
    while len(pairs) < 120:
        a = "".join(rng.choices(alphabet, k=rng.randint(1, 6)))
        tail = "".join(rng.choices(alphabet, k=rng.randint(0, 2)))
        b = a[: rng.randint(0, len(a))] + tail or "0"
        pairs.append((a, b))
    for a, b in pairs:
        said = subprocess.run(
            [str(ANALYZE), "compare-versions", "--", a, b],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        sign = {"<": -1, "==": 0, ">": 1}[said.removeprefix(a).removesuffix(b).strip()]
        assert compare_versions(a, b) == sign, (a, b, said)
