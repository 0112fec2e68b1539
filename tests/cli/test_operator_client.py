"""What a client does when the answer does not come."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from slipstream.cli import cli, operator_client
from slipstream.cli.operator_client import Client, by_token, place
from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError


def answer(monkeypatch, *responses):
    """Calls with these answers, None for a connection that breaks; the keys that were sent."""
    monkeypatch.setattr(operator_client, "RETRY_S", 0)
    keys, left = [], list(responses)

    async def handle(request):
        keys.append(request.headers["Idempotency-Key"])
        response = left.pop(0)
        if response is None:
            request.transport.abort()
            return web.Response()
        return web.json_response(response[1], status=response[0])

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        async with TestServer(app) as server:
            client = Client(str(server.make_url("/")), by_token("x"))
            return await asyncio.to_thread(client.change, "POST", "/devices", {})

    return asyncio.run(main()), keys


def test_a_change_is_sent_again_under_the_same_key(monkeypatch):
    value, keys = answer(monkeypatch, None, (503, {"error": "later"}), (201, {"id": "d1"}))
    assert value == {"id": "d1"}
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_after_three_times_it_gives_up(monkeypatch):
    with pytest.raises(Unavailable, match="later"):
        answer(monkeypatch, None, None, (503, {"error": "later"}))


def test_a_refusal_is_not_sent_again(monkeypatch):
    with pytest.raises(SlipstreamError, match="changed"):
        answer(monkeypatch, (412, {"error": "changed", "field": "If-Match"}))


def test_names_in_paths():
    assert place("a/../b c%") == "a%2F..%2Fb%20c%25"
    assert place("d-1.x:y@z+~") == "d-1.x:y@z+~"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the file is empty"),
        ("one\ntwo\n", "expected one line of ASCII characters, got 2 lines"),
        ("a\tb", "not a token"),
        ("é", "not a token"),
        ("x" * 5000, "not a token"),
    ],
)
def test_what_cannot_be_a_token_is_sent_nowhere(tmp_path, monkeypatch, text, words):
    file = tmp_path / "token"
    file.write_text(text)
    environment = {"SLIPSTREAM_TOKEN": text, "SLIPSTREAM_SERVER": "http://127.0.0.1:1"}
    done = CliRunner().invoke(cli, ["rollout", "list", "--token-file", str(file)])
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)
    if text:
        done = CliRunner().invoke(cli, ["rollout", "list"], env=environment)
        assert isinstance(done.exception, UsageError)
        assert "SLIPSTREAM_TOKEN" in str(done.exception)
