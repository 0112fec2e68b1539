"""Bars and rules in words."""

import click
import pytest

from slipstream.cli.rollout_words import BAR, bar, rule_words


def phase(members=0, offered=0, confirmed=0, failed=0):
    flying = offered - confirmed - failed
    failures = {"boot": failed} if failed else {}
    return {
        "members": members,
        "offered": offered,
        "confirmed": confirmed,
        "in_flight": flying,
        "failures": failures,
    }


@pytest.mark.parametrize(
    "counts, cells",
    [
        ({}, "." * 24),
        ({"members": 24, "offered": 12, "confirmed": 6, "failed": 2}, "######xx>>>>............"),
        ({"members": 9, "offered": 9, "confirmed": 9}, "#" * 24),
        # One of many is seen, whatever rounding says.
        (
            {"members": 100_000, "offered": 1, "confirmed": 0, "failed": 1},
            "x.......................",
        ),
        (
            {"members": 100_000, "offered": 100_000, "confirmed": 99_999, "failed": 1},
            "#######################x",
        ),
        # More were offered than were members: some joined later.
        ({"members": 1, "offered": 4, "confirmed": 4}, "#" * 24),
    ],
)
def test_bars(counts, cells):
    made = click.unstyle(bar(phase(**counts)))
    assert made == cells
    assert len(made) == BAR


RULE = {"action": "pause", "count": None, "percent": None, "min_sample": 1, "classes": []}


@pytest.mark.parametrize(
    "rule, words",
    [
        ({"count": 3}, "pause at 3 failed"),
        ({"percent": 5.0, "min_sample": 20}, "pause above 5 % failed of at least 20"),
        (
            {"percent": 0.5, "count": 2, "action": "abort", "classes": ["boot", "root"]},
            "abort at 2 failed or above 0.5 % failed (boot or root)",
        ),
    ],
)
def test_rules(rule, words):
    assert rule_words(RULE | rule) == words
