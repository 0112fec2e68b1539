"""The calls about releases, waypoints and budgets, a row each; their handlers are in guidance.py."""

from typing import Final

from slipstream.server.access import Deed
from slipstream.server.api import guidance
from slipstream.server.api.call import Page
from slipstream.server.api.route import GONE, Route

CALLS: Final = (
    Route(
        "GET",
        "/releases",
        Deed.SEE,
        "release.list",
        "List releases",
        look=guidance.list_releases,
        answer=guidance.Releases,
    ),
    Route(
        "GET",
        "/channels",
        Deed.SEE,
        "channel.list",
        "List channels",
        look=guidance.list_channels,
        answer=Page[guidance.Channel],
    ),
    Route(
        "GET",
        "/waypoints",
        Deed.SEE,
        "waypoint.list",
        "List waypoints",
        look=guidance.list_waypoints,
        answer=Page[guidance.ShownWaypoint],
    ),
    Route(
        "PUT",
        "/waypoints/{product}/{channel}/{release}",
        Deed.GUIDE,
        "waypoint.set",
        "Set a waypoint",
        change=guidance.set_waypoint,
        body=guidance.WaypointChange,
        answer=guidance.ShownWaypoint,
        refuses=GONE,
    ),
    Route(
        "DELETE",
        "/waypoints/{product}/{channel}/{release}",
        Deed.GUIDE,
        "waypoint.remove",
        "Remove a waypoint",
        change=guidance.remove_waypoint,
        refuses=GONE,
    ),
    Route(
        "GET",
        "/budgets",
        Deed.SEE,
        "budget.list",
        "List budgets",
        look=guidance.list_budgets,
        answer=Page[guidance.ShownBudget],
    ),
    Route(
        "PUT",
        "/budgets/{label}",
        Deed.GUIDE,
        "budget.set",
        "Set a budget",
        change=guidance.set_budget,
        body=guidance.BudgetChange,
        answer=guidance.ShownBudget,
    ),
    Route(
        "DELETE",
        "/budgets/{label}",
        Deed.GUIDE,
        "budget.remove",
        "Remove a budget",
        change=guidance.remove_budget,
        refuses=GONE,
    ),
)
