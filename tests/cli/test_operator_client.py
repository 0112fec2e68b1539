"""What a client does when the answer does not come."""

import asyncio
import ssl

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from slipstream.cli import cli, operator_client
from slipstream.cli.operator_client import Client, by_token, place
from slipstream.delta.errors import SlipstreamError, Unavailable, UsageError
from tests.server.certificates import write_certificate


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
    assert place("d-1.x:y@z+~") == "d-1.x:y@z+~"
    for text in ("", ".", "..", "../users", "a?b", "a b", "a%2F", "x" * 129, "\udcff"):
        with pytest.raises(UsageError, match="letters, digits"):
            place(text)


@pytest.mark.parametrize(
    "server",
    ["127.0.0.1:8480", "ftp://h", "http://", "https://:80", "http://h:99999", "http://h?x"],
)
def test_an_address_is_one_of_a_server(server):
    words = ["rollout", "list", "--server", server]
    done = CliRunner().invoke(cli, words, env={"SLIPSTREAM_TOKEN": "x"})
    assert isinstance(done.exception, UsageError)
    assert "--server: not the address of a server; expected http(s)://HOST" in str(done.exception)


@pytest.mark.parametrize(
    "asked, serves_tls, words",
    [
        ("https", True, "its certificate is not trusted: self-signed certificate. Name a file"),
        ("http", True, "it ended the connection without an answer. If it serves TLS"),
        ("https", False, "no TLS can be spoken there: WRONG_VERSION_NUMBER. If it serves plain"),
    ],
)
def test_tls_where_there_is_none_and_the_other_way_round(
    tmp_path, monkeypatch, asked, serves_tls, words
):
    monkeypatch.setattr(operator_client, "RETRY_S", 0)
    files = write_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)

    async def main():
        server = TestServer(web.Application())
        await server.start_server(ssl=context if serves_tls else None)
        try:
            client = Client(f"{asked}://127.0.0.1:{server.port}", {})
            await asyncio.to_thread(client.get, "/x")
        finally:
            await server.close()

    with pytest.raises(Unavailable) as caught:
        asyncio.run(main())
    assert words in str(caught.value)


def test_where_nobody_listens(monkeypatch):
    monkeypatch.setattr(operator_client, "RETRY_S", 0)
    with pytest.raises(Unavailable) as caught:
        Client("http://127.0.0.1:1", {}).get("/x")
    assert "cannot connect: Connection refused. Does slipstream serve" in str(caught.value)
    assert "ssl" not in str(caught.value)


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
