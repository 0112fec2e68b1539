"""A plan's errors name the field."""

import json

import msgspec
import pytest
from aiohttp import web

from slipstream.server.api.plans import parse_plan
from slipstream.server.rollout.plan import Phase, Plan

PLAN = {
    "name": "two",
    "product": "gateway",
    "release": "2.0",
    "counter": 2,
    "phases": [{"percent": 1, "abort": [{"count": 1}]}, {"percent": 100}],
}
BAD = [
    ([], "$"),
    ({"nmae": "x"}, "$.nmae"),
    ({"counter": "2"}, "$.counter"),
    ({"name": "../x"}, "$"),
    ({"filter": "tag=="}, "$"),
    ({"phases": [{"percent": 1}, {"percent": 1, "count": 1}]}, "$.phases[1]"),
    ({"phases": [{"percent": 1, "soak": 3}]}, "$.phases[0].soak"),
    ({"phases": [{"percent": "x"}]}, "$.phases[0].percent"),
    ({"phases": [{"percent": 1, "abort": [{"count": 1}, {}]}]}, "$.phases[0].abort[1]"),
    ({"phases": [{"percent": 1, "success": {"percent": 101}}]}, "$.phases[0].success"),
    ({"phases": [{"percent": 1, "success": {"percentage": 9}}]}, "$.phases[0].success.percentage"),
    ({"phases": [7]}, "$.phases[0]"),
    ({"phases": 7}, "$.phases"),
    ({"abort": [{"percent": 5, "action": "explode"}]}, "$.abort[0].action"),
    ({"budgets": [{"label": "sight", "max_unavailable": 1}]}, "$.budgets[0]"),
]


def test_a_plan_round_trips():
    plan = parse_plan(json.dumps(PLAN).encode())
    assert isinstance(plan, Plan)
    assert isinstance(plan.phases[0], Phase)
    assert parse_plan(msgspec.json.encode(plan)) == plan


@pytest.mark.parametrize("change, field", BAD)
def test_what_is_wrong_is_named(change, field):
    value = PLAN | change if isinstance(change, dict) else change
    with pytest.raises(web.HTTPBadRequest) as caught:
        parse_plan(json.dumps(value).encode())
    assert json.loads(caught.value.text)["field"] == field, caught.value.text
