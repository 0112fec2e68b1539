"""Polls and reports: strict about what the server says, clear about what to do next."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import Rejected, Unavailable, UsageError
from slipstream.delta.limits import REASON_CHARS_MAX
from slipstream.installer.poll import (
    FailedRelease,
    Offer,
    PollAnswer,
    PollRequest,
    Report,
    Server,
    SlotReport,
)
from tests.installer.hostile_server import Answer, Fault, HostileServer
from tests.installer.virtual_time import LoopClock, run

REQUEST = PollRequest(
    device="d1",
    product="gateway",
    hardware="x86-64",
    release="1.0",
    counter=1,
    booted_root="ab" * 32,
    slots=(SlotReport("a", "1.0", "booted"), SlotReport("b", None, "empty")),
    failed=(FailedRelease("0.9", "health"),),
)
REPORT = Report(key="k1", device="d1", kind="fell_back", at=1767225600, release="2.0", reason="x")


def says(body: object, code: int = 200, **headers: str) -> Fault:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: Answer(
        code,
        {"Content-Length": str(len(raw)), **{k.replace("_", "-"): v for k, v in headers.items()}},
        raw,
    )


@asynccontextmanager
async def front_door(*answers: Fault) -> AsyncIterator[tuple[HostileServer, Server]]:
    async with HostileServer({}) as hostile:
        hostile.plan(answers)
        async with Server(hostile.url + "/fleet", "s3cret", clock=LoopClock()) as server:
            yield hostile, server


def polled(*answers: Fault) -> PollAnswer:
    async def check() -> PollAnswer:
        async with front_door(*answers) as (_, server):
            return await server.poll(REQUEST)

    return run(check())


INSTALL = {"action": "install", "release": "2.0", "counter": 2, "interval_s": 60, "reason": "new"}


def test_poll_says_what_the_device_is() -> None:
    async def check() -> None:
        async with front_door(says(INSTALL)) as (hostile, server):
            assert await server.poll(REQUEST) == PollAnswer(Offer("2.0", 2), 60, "new")
            (request,) = hostile.requests
            assert (request.method, request.path) == ("POST", "fleet/v1/poll")
            assert request.headers["authorization"] == "Bearer s3cret"
            assert request.headers["content-type"] == "application/json"
            assert json.loads(request.body) == {
                "device": "d1",
                "product": "gateway",
                "hardware": "x86-64",
                "release": "1.0",
                "counter": 1,
                "booted_root": "ab" * 32,
                "slots": [
                    {"name": "a", "release": "1.0", "state": "booted"},
                    {"name": "b", "release": None, "state": "empty"},
                ],
                "failed": [{"release": "0.9", "reason": "health"}],
                "trial": False,
                "floor": 0,
                "channel": None,
            }

    run(check())


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"action": "none"}, PollAnswer(None, 300, "")),
        (
            {"action": "none", "release": None, "counter": None, "interval_s": 5, "reason": "r"},
            PollAnswer(None, 5, "r"),
        ),
        (INSTALL | {"a_later_field": [1, 2]}, PollAnswer(Offer("2.0", 2), 60, "new")),
    ],
)
def test_answers(body: object, answer: PollAnswer) -> None:
    assert polled(says(body)) == answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"[" * 5000,
        b'{"action": "none"} x',
        {"action": "format the disk"},
        {"action": "install"},
        {"action": "install", "release": "2.0"},
        INSTALL | {"counter": "2"},
        INSTALL | {"counter": -1},
        INSTALL | {"counter": 2**31},
        INSTALL | {"counter": True},
        INSTALL | {"release": ""},
        INSTALL | {"release": "x" * 65},
        INSTALL | {"interval_s": 0},
        INSTALL | {"interval_s": 10**12},
        INSTALL | {"interval_s": 1.5},
        INSTALL | {"reason": "x" * 100_000},
    ],
)
def test_bad_answers_mean_try_later(body: object) -> None:
    with pytest.raises(Unavailable):
        polled(says(body))


@given(st.binary(max_size=100))
@settings(max_examples=30, deadline=None)
def test_any_bytes(raw: bytes) -> None:
    with pytest.raises(Unavailable):
        polled(says(raw))


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        (401, Rejected, "token"),
        (403, Rejected, "token"),
        (400, Rejected, "bad counter"),
        (413, Rejected, "413"),
        (404, Unavailable, "static repository"),
        (302, Unavailable, "302"),
        (429, Unavailable, "429"),
        (500, Unavailable, "500"),
        (503, Unavailable, "503"),
    ],
)
def test_refusals(code: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as failure:
        polled(says({"error": "bad counter"}, code, Retry_After="9", Location="http://evil/"))
    assert "/fleet/v1/poll" in str(failure.value)
    if code >= 429:
        assert getattr(failure.value, "retry_after_s", None) == 9.0


@pytest.mark.parametrize(
    "fault",
    [
        lambda a: replace(a, cut=0),
        lambda a: replace(a, cut_body=3),
        lambda a: replace(a, stall_body=3),
        lambda a: replace(a, endless=True),
        lambda a: replace(a, drip=(1, 29.0), drip_head=True),
    ],
)
def test_broken_links_are_unavailable(fault: Fault) -> None:
    with pytest.raises(Unavailable):
        polled(lambda a: fault(says(INSTALL)(a)))


def test_reports() -> None:
    async def check() -> None:
        answers: list[Any] = [
            says({"accepted": True, "duplicate": False}),
            says({"accepted": True, "duplicate": True}),
            says({"accepted": False}),
        ]
        async with front_door(*answers) as (hostile, server):
            assert not (await server.report(REPORT)).duplicate
            long = Report(key="k", device="d1", kind="failed", at=1, reason="x" * 10_000)
            assert (await server.report(long)).duplicate
            with pytest.raises(Unavailable, match="report"):
                await server.report(REPORT)
            first, second, _ = (json.loads(r.body) for r in hostile.requests)
            assert first["key"] == "k1"
            assert first["kind"] == "fell_back"
            assert len(second["reason"]) == REASON_CHARS_MAX
            assert hostile.accepted == 1

    run(check())


def test_reports_have_a_size() -> None:
    async def check() -> None:
        async with front_door() as (hostile, server):
            big = Report(key="k", device="d", kind="failed", at=1, details={"log": "x" * 300_000})
            with pytest.raises(Rejected, match="too large"):
                await server.report(big)
            assert hostile.accepted == 0

    run(check())


@pytest.mark.parametrize("token", ["", "  ", "a\nb", "ä"])
def test_bad_tokens(token: str) -> None:
    async def check() -> None:
        with pytest.raises(UsageError):
            Server("http://localhost", token, clock=LoopClock())

    run(check())
