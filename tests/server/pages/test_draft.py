"""The form that starts a rollout: what its fields become, and whose fault a problem is."""

import pytest

from slipstream.server.catalog import Catalog, Release
from slipstream.server.pages.draft import DEFAULTS, parse_phase, parse_span, read_draft
from slipstream.server.rollout.plan import AbortRule, Budget, FailureClass, SuccessRule, Urgency

CATALOG = Catalog((Release("gateway", "2.0", 2, "stable"),), "2030-01-01T00:00:00Z", 0)
FIELDS = {**DEFAULTS, "name": "a rollout", "release": "gateway/2.0"}


def test_the_defaults_are_a_plan():
    draft = read_draft(FIELDS, CATALOG)
    assert draft.problems == {}
    assert [str(one) for one in draft.plan.phases] == ["1 %", "10 %", "50 %", "100 %"]
    assert [one.soak_s for one in draft.plan.phases] == [7200, 43_200, 43_200, 0]
    assert draft.plan.abort[2] == AbortRule((FailureClass.REGRESSED,), count=1)
    assert not draft.plan.needs_approval


def test_all_that_a_form_can_say():
    more = {
        "filter": "tag==canary",
        "stratify": "attribute.site",
        "downloads": "50",
        "budget_label": "group",
        "budget": "3",
        "start_at": "2027-01-15T06:30",
        "windows": "Sat,Sun 02:00-04:00; Mon 01:00-02:00",
        "zone": "Europe/Berlin",
        "urgency": "time_forced",
        "forced_at": "2027-02-01T00:00",
        "download_only": "on",
        "approval": "on",
        "phase4": "tag==lab",
    }
    plan = read_draft({**FIELDS, **more}, CATALOG).plan
    assert plan.budgets == (Budget("group", 3),)
    assert (plan.max_downloads, plan.start_at) == (50, 1_799_994_600)
    assert (plan.urgency, plan.forced_at) == (Urgency.TIME_FORCED, 1_801_440_000)
    assert len(plan.windows) == 2
    assert plan.download_only
    assert plan.needs_approval
    assert plan.phases[3].selector == "tag==lab"


@pytest.mark.parametrize(
    "name, text",
    [
        ("name", "?"),
        ("release", "gateway/9.9"),
        ("filter", "color"),
        ("phase1", "200 %"),
        ("phase2", "none="),
        ("soak1", "2 weeks"),
        ("success", "many"),
        ("percent1", "500"),
        ("sample2", "1.5"),
        ("count3", "-1"),
        ("silent", "1"),
        ("stratify", "colour"),
        ("downloads", "0"),
        ("budget", "5"),
        ("start_at", "soon"),
        ("windows", "someday"),
        ("zone", "Atlantis"),
        ("urgency", "panic"),
    ],
)
def test_a_problem_stands_at_its_field(name, text):
    draft = read_draft({**FIELDS, name: text}, CATALOG)
    assert draft.plan is None
    at = {"budget": "budget_label", "count3": "count3"}.get(name, name)
    assert list(draft.problems) == [at]


@pytest.mark.parametrize(
    "text, seconds", [("90 s", 90), ("1.5h", 5400), (" 3 d ", 259_200), ("5min", 300), ("2 m", 120)]
)
def test_spans(text, seconds):
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    "text, words", [("7.5%", "7.5 %"), ("50 devices", "50 devices"), ("1", "1 device")]
)
def test_phases(text, words):
    assert str(parse_phase(text, 0, SuccessRule())) == words
