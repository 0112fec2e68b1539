"""Every call of /api/v1, a row each. docs/http-api.md and the OpenAPI document are made of it."""

from typing import Final

from slipstream.server.api import (
    account_calls,
    device_calls,
    guidance_calls,
    record_calls,
    rollout_calls,
)
from slipstream.server.api.route import Route

# The heading in the documents, and its calls.
SECTIONS: Final[tuple[tuple[str, tuple[Route, ...]], ...]] = (
    ("Accounts", account_calls.CALLS),
    ("Devices", device_calls.CALLS),
    ("Releases, waypoints, budgets", guidance_calls.CALLS),
    ("Rollouts", rollout_calls.CALLS),
    ("Audit log and webhooks", record_calls.CALLS),
)
ROUTES: Final = tuple(route for _, routes in SECTIONS for route in routes)
