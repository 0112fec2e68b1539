"""Repository files over HTTP: whole, in ranges, under conditions, and what is never served."""

import asyncio
import email.parser
import email.policy
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys

import pytest
from aiohttp import ClientSession

from slipstream.server import blobs

BYTES = random.Random(1).randbytes(3_000_000)
DIGEST = hashlib.sha256(BYTES).hexdigest()
BLOB = f"/blobs/{DIGEST}.payload"


@pytest.fixture
def blob(folder):
    path = folder.public / BLOB[1:]
    path.write_bytes(BYTES)
    return path


def test_a_blob_is_served_whole_and_for_ever(with_fleet, blob):
    async def test(fleet):
        response = await fleet.client.get(BLOB)
        assert response.status == 200
        assert await response.read() == BYTES
        assert response.headers["ETag"] == f'"{DIGEST}"'
        assert response.headers["Content-Length"] == str(len(BYTES))
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Accept-Ranges"] == "bytes"
        assert "immutable" in response.headers["Cache-Control"]
        assert "max-age=31536000" in response.headers["Cache-Control"]

    with_fleet(test)


@pytest.mark.parametrize("size", [1, 64 * 1024, 64 * 1024 + 1, 2_999_999])
def test_one_range(with_fleet, blob, size):
    async def test(fleet):
        headers = {"Range": f"bytes=1-{size}", "If-Range": f'"{DIGEST}"'}
        response = await fleet.client.get(BLOB, headers=headers)
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes 1-{size}/{len(BYTES)}"
        assert response.headers["Content-Length"] == str(size)
        assert await response.read() == BYTES[1 : size + 1]

    with_fleet(test)


@pytest.mark.parametrize("specs", ["0-0,5-9", "-3,0-99999,1000000-2500000"])
def test_several_ranges_are_multipart(with_fleet, blob, specs):
    async def test(fleet):
        response = await fleet.client.get(BLOB, headers={"Range": f"bytes={specs}"})
        assert response.status == 206
        raw = await response.read()
        assert response.headers["Content-Length"] == str(len(raw))
        kind = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
        # HTTP's policy would turn line ends; the parts are cut out by their own lengths instead.
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(kind + raw)
        boundary = message.get_boundary()
        assert boundary
        pieces = raw.split(f"--{boundary}".encode())
        assert pieces[0] == b""
        assert pieces[-1] == b"--\r\n"
        asked = specs.split(",")
        assert len(pieces) == len(asked) + 2
        for spec, piece in zip(asked, pieces[1:-1], strict=True):
            head, _, body = piece.partition(b"\r\n\r\n")
            first, last = spec.split("-")
            start = int(first) if first else len(BYTES) - int(last)
            end = int(last) + 1 if first else len(BYTES)
            assert f"bytes {start}-{end - 1}/{len(BYTES)}".encode() in head
            assert body == BYTES[start:end] + b"\r\n"

    with_fleet(test)


def test_head_says_what_get_would(with_fleet, blob):
    async def test(fleet):
        head = await fleet.client.head(BLOB)
        got = await fleet.client.get(BLOB)
        await got.read()
        assert head.status == 200
        assert await head.read() == b""
        for name in ("ETag", "Content-Length", "Content-Type", "Cache-Control", "Last-Modified"):
            assert head.headers[name] == got.headers[name]
        # The connection is still in step afterwards.
        assert (await fleet.client.get("/metadata/timestamp.json")).status == 200

    with_fleet(test)


def test_conditions_on_the_wire(with_fleet, blob):
    async def test(fleet):
        same = await fleet.client.get(BLOB, headers={"If-None-Match": f'"{DIGEST}"'})
        assert (same.status, await same.read()) == (304, b"")
        assert same.headers["ETag"] == f'"{DIGEST}"'
        other = await fleet.client.get(BLOB, headers={"If-Match": '"x"'})
        assert other.status == 412
        past = await fleet.client.get(BLOB, headers={"Range": "bytes=3000000-"})
        assert past.status == 416
        assert past.headers["Content-Range"] == "bytes */3000000"
        changed = await fleet.client.get(BLOB, headers={"Range": "bytes=0-1", "If-Range": '"x"'})
        assert changed.status == 200
        assert await changed.read() == BYTES

    with_fleet(test)


def test_metadata_is_asked_for_anew_and_its_etag_follows_its_content(with_fleet, folder):
    async def test(fleet):
        path = folder.public / "metadata" / "timestamp.json"
        first = await fleet.client.get("/metadata/timestamp.json")
        assert first.headers["Cache-Control"] == "no-cache"
        assert first.headers["Content-Type"] == "application/json"
        etag = first.headers["ETag"]
        assert etag == f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'
        again = await fleet.client.get("/metadata/timestamp.json", headers={"If-None-Match": etag})
        assert again.status == 304
        folder.write()
        # An attacker's or a restored clock: the date alone would not have told.
        os.utime(path, ns=(0, 1))
        changed = await fleet.client.get(
            "/metadata/timestamp.json", headers={"If-None-Match": etag}
        )
        assert changed.status == 200
        assert await changed.read() == path.read_bytes()

    with_fleet(test)


def test_an_empty_file(with_fleet, folder):
    name = hashlib.sha256(b"").hexdigest()
    (folder.public / "blobs" / f"{name}.chunks").touch()

    async def test(fleet):
        response = await fleet.client.get(f"/blobs/{name}.chunks")
        assert (response.status, await response.read()) == (200, b"")
        ranged = await fleet.client.get(f"/blobs/{name}.chunks", headers={"Range": "bytes=0-"})
        assert ranged.status == 416

    with_fleet(test)


async def _raw(fleet, target):
    """Status of a request whose target no client library has tidied."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.client.port)
    writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ")[1]), answer


def test_what_is_not_the_repositorys_is_never_served(with_fleet, folder, tmp_path):
    secret = tmp_path / "repo" / f"{DIGEST}.secret"
    secret.write_bytes(b"hidden")
    public = folder.public
    outside, inside = tmp_path / "repo" / "out", public / "targets" / "in"
    outside.mkdir()
    inside.mkdir()
    for place in (outside, inside):
        (place / f"{DIGEST}.secret").write_bytes(b"hidden")
    (public / "blobs" / f"{DIGEST}.link").symlink_to(secret)
    (public / "blobs" / f"{DIGEST}.inner").symlink_to(inside / f"{DIGEST}.secret")
    (public / "targets" / "folder").symlink_to(outside)
    (public / "blobs" / f".{DIGEST}.tmp").write_bytes(b"hidden")
    (public / "blobs" / "plain").write_bytes(b"hidden")
    (public / "blobs" / f"{DIGEST}.folder").mkdir()
    os.mkfifo(public / "blobs" / f"{DIGEST}.fifo")
    (public / f"{DIGEST}.top").write_bytes(b"hidden")
    (public / "other").mkdir()
    (public / "other" / f"{DIGEST}.x").write_bytes(b"hidden")
    name = DIGEST.encode()
    targets = [
        b"/blobs/../../" + name + b".secret",
        b"/blobs/..%2f..%2f" + name + b".secret",
        b"/blobs/%2e%2e/%2e%2e/" + name + b".secret",
        b"/blobs/..%5c" + name + b".secret",
        b"/blobs/%00" + name + b".secret",
        b"/blobs/" + name + b".secret%00",
        b"/blobs/" + name + b".secret%0a",
        b"/blobs//" + str(secret).encode(),
        b"/blobs/" + name + b".link",
        b"/blobs/" + name + b".inner",
        b"/blobs/" + name + b".fifo",
        b"/blobs/" + name + b".folder",
        b"/blobs/" + name + b".folder/",
        b"/blobs/." + name + b".tmp",
        b"/blobs/plain",
        b"/blobs/",
        b"/blobs",
        b"/targets/folder/" + name + b".secret",
        b"/targets/in",
        b"/targets/" + b"a/" * 20 + name + b".secret",
        b"/metadata/",
        b"/metadata/../blobs/plain",
        b"/metadata/../../" + name + b".secret",
        b"/" + name + b".top",
        b"/other/" + name + b".x",
        b"//etc/passwd",
    ]

    async def test(fleet):
        for target in targets:
            status, answer = await _raw(fleet, target)
            assert status in {400, 404}, target
            assert b"hidden" not in answer.partition(b"\r\n\r\n")[2], target
        status, answer = await _raw(fleet, b"/targets/in/" + name + b".secret")
        assert (status, answer[-6:]) == (200, b"hidden")

    with_fleet(test)


def test_a_file_that_shrinks_while_it_is_sent_is_cut_off(with_fleet, blob, folder):
    async def test(fleet):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", fleet.client.port, limit=1 << 16
        )
        os.truncate(blob, 64 * 1024 * 1024)
        writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        os.truncate(blob, 1_000_000)
        count = 0
        while piece := await reader.read(1 << 20):
            count += len(piece)
        assert count < 64 * 1024 * 1024
        writer.close()
        await writer.wait_closed()

    with_fleet(test)


def test_a_client_that_takes_nothing_is_cut_off(with_fleet, folder, monkeypatch):
    (folder.public / "blobs" / f"{DIGEST}.payload").write_bytes(bytes(20_000_000))
    monkeypatch.setattr(blobs, "SEND_PIECE_TIMEOUT_S", 0.1)
    spans = ",".join(f"{start}-{start + 59_999}" for start in range(0, 17_000_000, 70_000))

    async def test(fleet):
        server = fleet.client.server
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((server.host, server.port))
            client.setblocking(False)
            head = (
                f"GET /blobs/{DIGEST}.payload HTTP/1.1\r\nHost: x\r\nRange: bytes={spans}\r\n\r\n"
            )
            await loop.sock_sendall(client, head.encode())
            async with asyncio.timeout(20):
                while not server.runner.server.connections:  # it is accepted
                    await asyncio.sleep(0)
                while server.runner.server.connections:
                    await asyncio.sleep(0.01)

    with_fleet(test)


def test_methods_other_than_get_and_head(with_fleet, blob):
    async def test(fleet):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            response = await fleet.client.request(method, BLOB)
            assert response.status == 405
            assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}
            assert "error" in await response.json()

    with_fleet(test)


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("server", ["nginx", "python"])
def test_any_web_server_serves_the_same_folder(folder, blob, tmp_path, server):
    port = _free_port()
    if server == "nginx":
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if nginx is None:
            pytest.skip("nginx is not installed")
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\n"
            "events {}\n"
            f"http {{ access_log off; client_body_temp_path {tmp_path}/b;"
            f" proxy_temp_path {tmp_path}/p; fastcgi_temp_path {tmp_path}/f;"
            f" uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
            f" server {{ listen 127.0.0.1:{port}; root {folder.public}; }} }}\n"
        )
        command = [nginx, "-c", str(config), "-p", str(tmp_path)]
    else:
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

    async def fetch(session, url):
        for _ in range(200):
            try:
                async with session.get(url) as response:
                    return response.status, await response.read()
            except OSError:
                await asyncio.sleep(0.05)  # until it listens; there is nothing else to wait for
        raise AssertionError("the server did not start")

    async def test():
        async with ClientSession() as session:
            base = f"http://127.0.0.1:{port}"
            for path in (BLOB, "/metadata/timestamp.json"):
                want = (folder.public / path[1:]).read_bytes()
                assert await fetch(session, base + path) == (200, want)

    with subprocess.Popen(
        command, cwd=folder.public, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            asyncio.run(test())
        finally:
            process.terminate()
