"""Numbers, times and states in words."""

import pytest

from slipstream.server.pages import words
from slipstream.server.pages.words import (
    age_words,
    rule_words,
    share_words,
    size_words,
    span_words,
    success_words,
)
from slipstream.server.rollout.plan import AbortRule, FailureClass, Halting, SuccessRule
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.track import State


@pytest.mark.parametrize(
    "age, text",
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "60 seconds ago"),
        (120, "2 minutes ago"),
        (7199, "119 minutes ago"),
        (7200, "2 hours ago"),
        (200_000, "2 days ago"),
    ],
)
def test_ages(age, text):
    assert age_words(age) == text


@pytest.mark.parametrize(
    "span, text",
    [
        (-1, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (90_000, "1 d 1 h"),
        (86_460, "1 d"),  # the third unit is left out
        (30 * 86_400, "30 d"),
    ],
)
def test_spans(span, text):
    assert span_words(span) == text


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (5 * 10**12, "5.0 TB"),
    ],
)
def test_sizes(size, text):
    assert size_words(size) == text


@pytest.mark.parametrize(
    "part, whole, text",
    [
        (0, 0, "0 %"),
        (0, 10, "0 %"),
        (1, 10_000, "< 0.1 %"),
        (1, 100, "1.0 %"),
        (50, 100, "50 %"),
        (9999, 10_000, "99.9 %"),  # never all, as long as one is missing
        (10, 10, "100 %"),
    ],
)
def test_shares(part, whole, text):
    assert share_words(part, whole) == text


@pytest.mark.parametrize(
    "rule, text",
    [
        (AbortRule(count=1), "Pause at 1 failure"),
        (AbortRule(percent=5, min_sample=20), "Pause above 5 % of at least 20 devices"),
        (
            AbortRule((FailureClass.BOOT,), 2.5, 1, 7, Halting.ABORT),
            "Abort at 7 failures, or above 2.5 % of at least 1 device (tried it and fell back)",
        ),
    ],
)
def test_abort_rules(rule, text):
    assert rule_words(rule) == text


def test_success_rules():
    assert success_words(SuccessRule()) == "95 % confirmed"
    rule = SuccessRule(90, 50, 1000)
    assert success_words(rule) == "90 % confirmed, at least 50, or 1,000 devices"


def test_every_state_and_class_has_a_word():
    assert set(words.STATUSES) == set(Status)
    assert set(words.STATES) == set(State)
    assert set(words.FAILURES) == set(FailureClass)
    # Whoever cannot tell colours apart reads the word: no two are the same.
    for table in (words.STATUSES, words.STATES):
        named = [word for word, _ in table.values()]
        assert len(set(named)) == len(named)
