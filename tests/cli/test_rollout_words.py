"""Bars and rules in words."""

import click
import pytest

from slipstream.cli.rollout_words import BAR, bar, in_words, margin_words, rule_words


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


@pytest.mark.parametrize(
    "more, in_flight, words",
    [
        (0, 0, "nothing is on its way"),  # also of a rule at 2 failed, where none has failed
        (0, 3, "not one more may fail"),
        (2, 3, "2 of 3 on their way may fail"),
        (3, 3, "cannot fire, even if all 3 on their way fail"),
    ],
)
def test_margins(more, in_flight, words):
    assert margin_words(more, in_flight) == words


def rollout(**more):
    plan = {"name": "r", "release": "2.0", "product": "gateway", "channel": "stable", "filter": ""}
    who = {"author": "ada", "decided_by": None, "remark": "", "reason": ""}
    traffic = {"devices": 0}
    whole = {
        "id": 1,
        "status": "scheduled",
        **who,
        "phases": [],
        "traffic": traffic,
        "waits_for": None,
    }
    return {**whole, **more, "plan": {**plan, "start_at": None, **more.get("plan", {})}}


def test_when_a_rollout_begins():
    assert "begins within seconds" in list(in_words(rollout()))
    at = {"start_at": 1_800_000_000}
    for status in ("scheduled", "waiting_for_approval"):
        words = list(in_words(rollout(plan=at, status=status)))
        assert "begins at 2027-01-15 08:00 UTC" in words
    assert not any("begins" in line for line in in_words(rollout(plan=at, status="running")))


def test_a_class_is_no_count():
    one = phase(members=4, offered=2) | {"failures": {"device": 1, "boot": 1}, "opened_at": 1}
    more = {"text": "all", "missing": "", "soaked_s": 0, "soak_s": 0, "rules": []}
    words = list(in_words(rollout(status="running", phases=[one | more])))
    assert "  failed: 1 (device), 1 (boot)" in words
