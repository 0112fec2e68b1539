"""The real process: start, SIGTERM during a download, SIGKILL between two reports."""

import asyncio
import errno
import http.client
import json
import logging
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from slipstream.delta.errors import Unavailable, UsageError
from slipstream.server.serve import configure_log, open_database, parse_listen, serve

CHILD = """
import sys
from pathlib import Path
from slipstream.server.serve import serve
from slipstream.server.tls import CertificateFiles
tls = CertificateFiles(*map(Path, sys.argv[4:])) if sys.argv[4:] else None
serve(Path(sys.argv[1]), listen="127.0.0.1:0", grace_s=float(sys.argv[2]), tls=tls,
      idle_timeout_s=float(sys.argv[3]), on_ready=lambda url: print(url, flush=True))
"""
DIGEST = "d" * 64
# Far more than the sockets of both ends can hold, so that the download is surely under way.
BYTES = random.Random(3).randbytes(1 << 20) * 48


@pytest.fixture(autouse=True)
def _log_as_before():
    """serve() directs the log of the process to its standard error."""
    yield
    structlog.reset_defaults()


@contextmanager
def running(public: Path, grace_s: float = 60, idle_timeout_s: float = 60, tls=None):
    """A server process and its port."""
    files = [] if tls is None else [str(tls.certificate), str(tls.key)]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(public), str(grace_s), str(idle_timeout_s), *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(rb"https?://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
            assert found is not None
            yield process, int(found[1])
        finally:
            process.kill()


def request(port, method, path, body=None, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def begin_download(port):
    """A connection that has received the headers of the blob and 4096 bytes, and waits."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.sendall(f"GET /blobs/{DIGEST}.payload HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(4096)
    assert got.startswith(b"HTTP/1.1 200")
    return connection, got.partition(b"\r\n\r\n")[2]


def finish_download(connection, got):
    with connection:
        pieces = [got]
        while piece := connection.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture
def blob(folder):
    (folder.public / "blobs" / f"{DIGEST}.payload").write_bytes(BYTES)


def operator_token(folder):
    return (folder.public.parent / "server" / "operator.token").read_text().strip()


def register(port, operator):
    new = {"id": "d1", "product": "gateway"}
    _, raw = request(port, "POST", "/api/v1/devices", new, operator)
    return json.loads(raw)["token"]


def test_sigterm_lets_a_download_finish_and_keeps_what_polls_said(folder, blob):
    with running(folder.public) as (process, port):
        operator = operator_token(folder)
        token = register(port, operator)
        download = begin_download(port)
        poll = {"device": "d1", "product": "gateway", "release": "1.0"}
        assert request(port, "POST", "/v1/poll", poll, token)[0] == 200
        process.send_signal(signal.SIGTERM)
        # Its own word, not a guessed time, says that it no longer listens.
        while b"stopping" not in process.stderr.readline():
            pass
        assert process.poll() is None
        assert finish_download(*download) == BYTES
        assert process.wait(timeout=60) == 0
        with pytest.raises(ConnectionRefusedError):
            request(port, "GET", "/healthz")
    with running(folder.public) as (_, port):
        _, raw = request(port, "GET", "/api/v1/devices", token=operator)
        assert json.loads(raw)["items"][0]["release"] == "1.0"


def test_a_client_that_never_reads_does_not_hold_the_server_for_ever(folder, blob):
    with running(folder.public, grace_s=0.2) as (process, port):
        connection, got = begin_download(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert len(finish_download(connection, got)) < len(BYTES)


def test_sigkill_loses_no_report_that_was_acknowledged(folder):
    rounds = int(os.environ.get("SLIPSTREAM_KILL_ROUNDS", "3"))
    kept = set()
    operator = token = None
    for number in range(rounds):
        with running(folder.public) as (process, port):
            if operator is None:
                operator = operator_token(folder)
                token = register(port, operator)
            for one in range(10):
                key = f"{number}.{one}"
                body = {"key": key, "device": "d1", "kind": "progress"}
                status, raw = request(port, "POST", "/v1/report", body, token)
                assert (status, json.loads(raw)["duplicate"]) == (200, False)
                kept.add(key)
            # One more is on its way when the process dies: it may be kept or not.
            with socket.create_connection(("127.0.0.1", port)) as connection:
                raw = json.dumps({"key": f"{number}.x", "device": "d1", "kind": "progress"})
                connection.sendall(
                    f"POST /v1/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                    f"Content-Length: {len(raw)}\r\n\r\n{raw}".encode()
                )
                process.kill()
            process.wait()
    with running(folder.public) as (_, port):
        _, raw = request(port, "GET", "/api/v1/devices/d1?limit=500", token=operator)
        found = {one["key"] for one in json.loads(raw)["reports"]}
        assert kept <= found
        # What is sent again after the answer was lost is told apart from what is new.
        body = {"key": "0.0", "device": "d1", "kind": "progress"}
        assert json.loads(request(port, "POST", "/v1/report", body, token)[1])["duplicate"]


def test_the_servers_folder_is_its_owners_alone(folder):
    with running(folder.public) as (_, port):
        assert request(port, "GET", "/healthz")[0] == 200
        made = folder.public.parent / "server"
        assert made.stat().st_mode & 0o777 == 0o700
        assert (made / "operator.token").stat().st_mode & 0o777 == 0o600
        assert (made / "fleet.sqlite").exists()
        assert request(port, "GET", "/blobs/../server/operator.token")[0] == 404
        with pytest.raises(UsageError, match="cannot listen"):
            serve(folder.public, listen=f"127.0.0.1:{port}")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nX-A: "])
def test_a_connection_that_sends_no_request_is_cut(folder, sent):
    """Slowloris: a byte of a header now and then, for ever."""
    with running(folder.public, idle_timeout_s=0.5) as (_, port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(sent)
            connection.settimeout(0.1)
            for _ in range(300):
                try:
                    assert connection.recv(4096) == b""
                    break
                except TimeoutError:
                    if sent:
                        connection.sendall(b"a")
                except ConnectionError:
                    break
            else:
                pytest.fail("still open after 30 s")
        # The next one is served, and may ask twice on its connection.
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(2):
            client.request("GET", "/healthz")
            assert client.getresponse().read()
        client.close()


def test_headers_have_a_size(folder):
    with running(folder.public) as (process, port):
        for sent in (b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 10_000, b"GET /" + b"a" * 10_000):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(sent + b"\r\n\r\n")
                assert re.match(rb"HTTP/1\.[01] 400 ", connection.recv(4096))
        process.terminate()
        log = process.stderr.read().decode()
    told = [json.loads(line) for line in log.splitlines()]
    of_header = [one for one in told if one.get("library") == "aiohttp.server"]
    assert {one["level"] for one in of_header} == {"warning"}
    assert "exception" not in log


def test_beyond_this_machine(folder):
    with pytest.raises(UsageError, match="in the clear"):
        serve(folder.public, listen="0.0.0.0:0")
    with pytest.raises(UsageError, match="neither"):
        serve(folder.public, listen="0.0.0.0:0", insecure_http=True)
    assert not (folder.public.parent / "server" / "operator.token").exists()


@pytest.mark.parametrize(
    "error, more",
    [
        (ConnectionResetError("gone\naway"), {"error": "ConnectionResetError: gone away"}),
        (asyncio.CancelledError(), {"error": "CancelledError: "}),
        (sqlite3.OperationalError("x" * 999), {"error": f"OperationalError: {'x' * 300}"}),
        (KeyError("nobody foresaw it"), {"exc_info": True}),
    ],
)
def test_a_traceback_is_for_what_nobody_foresaw(error, more):
    configure_log()
    with capture_logs() as told:
        logging.getLogger("library").error("failed", exc_info=error)
    (one,) = told
    assert ("exc_info" in one) == ("exc_info" in more)
    assert one.get("error") == more.get("error")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"not a database, but of some length" * 100, "file is not a database. If it is damaged"),
        (None, "unable to open database file. A file is wanted, in a folder"),
    ],
)
def test_a_database_that_is_none_is_named(tmp_path, content, words):
    file = tmp_path / "missing" / "fleet.sqlite" if content is None else tmp_path / "fleet.sqlite"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(open_database(f"sqlite:///{file}"))
    assert str(caught.value).startswith(f"{file}: the database does not answer: ")
    assert words in str(caught.value)


def test_a_database_that_cannot_be_written_is_refused_at_the_start(tmp_path, monkeypatch):
    file = tmp_path / "fleet.sqlite"
    file.touch()

    def refuse(path, flags, *_):
        assert flags & os.O_RDWR
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # the tests' user may be one who may write everything
    with pytest.raises(UsageError, match="the database cannot be written: Permission denied"):
        asyncio.run(open_database(f"sqlite:///{file}"))


def test_a_folder_that_is_no_repository(tmp_path):
    with pytest.raises(UsageError, match="not a repository"):
        serve(tmp_path)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":0", ("", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses(text, expected):
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text", ["", "80", "host", "host:", "host:x", "h:65536", "::1:80", "[x]:1"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(UsageError, match="address"):
        parse_listen(text)
