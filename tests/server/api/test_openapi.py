"""The OpenAPI document says what the server does: asked by schemathesis, call by call."""

import json

import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from structlog.testing import capture_logs

from slipstream.server.api.openapi import document
from slipstream.server.api.table import ROUTES
from slipstream.server.app import Settings, make_app
from tests.server.conftest import NOW, OPERATOR_TOKEN, QUICK
from tests.server.serving import serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 3  # of each call
# Data that may be refused as well as data that is fine: both kinds are generated.
QUICKLY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def server(folder, tmp_path):
    folder.release("2.0", 2)
    folder.write()
    url = f"sqlite+aiosqlite:///{tmp_path / 'fleet.sqlite'}"
    known = Settings(folder.public, url, OPERATOR_TOKEN, now=lambda: NOW, password_hasher=QUICK)
    with capture_logs(), serving(known) as address:
        yield address.rstrip("/")


def test_every_answer_is_one_that_the_document_tells(server):
    operator = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    body = {"id": "d1", "product": "gateway"}
    made = requests.post(f"{server}/api/v1/devices", json=body, headers=operator, timeout=30)
    device = {"Authorization": f"Bearer {made.json()['token']}"}
    told = requests.get(f"{server}/api/v1/openapi.json", timeout=30).json()
    assert told == json.loads(json.dumps(document()))
    found = schemathesis.openapi.from_dict(told)
    asked = 0
    for result in found.get_all_operations():
        operation = result.ok()
        native = {"device": []} in operation.definition.raw["security"]
        if operation.path == "/v1/wake":  # has no end: as a stranger, and in test_wake.py
            asked += ask(operation, server, {"Authorization": "Bearer a stranger's"})
            continue
        asked += ask(operation, server, device if native else operator)
    assert asked >= 2 * len(ROUTES)


def ask(operation, server, token):
    """Ask one call what schemathesis thinks of: how often."""
    asked = []

    @QUICKLY
    @given(case=operation.as_strategy())
    def check(case):
        asked.append(case)
        case.call_and_validate(base_url=server, headers=token, checks=CHECKS, timeout=30)

    check()
    return len(asked)


def test_every_route_is_in_the_document(folder, tmp_path):
    """What the router knows below /api/v1 and /v1, the document does."""
    known = Settings(folder.public, "", OPERATOR_TOKEN, now=lambda: NOW)
    app = make_app(known, None)
    paths = document()["paths"]
    told = {
        (method.upper(), path.replace("{device}", "{}"))
        for path, methods in paths.items()
        for method in methods
    }
    for route in app.router.routes():
        path = route.resource.canonical
        if route.method == "HEAD" or not path.startswith(("/api/", "/v1/")):
            continue
        if path == "/api/v1/openapi.json":
            continue
        spelled = path.replace("{id}", "{}").replace("{device}", "{}")
        assert (route.method, spelled) in told, path
    assert isinstance(app, web.Application)
