"""How fast a blob is served: this server and nginx beside each other, over loopback.

    python benches/serve.py [--size-mb 200] [--rounds 5] [--clients 1] [--polls 2000]

Prints MB/s (best and median of the rounds) for one whole blob and for 256 KiB ranges over one
kept connection, the processor time that each server took for it, and polls a second.
Client and server share the machine's cores: read the figures beside each other, not alone.
"""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

CHILD = """
import sys
from pathlib import Path
from slipstream.server.serve import serve
serve(Path(sys.argv[1]), listen=sys.argv[2], on_ready=lambda url: print(url, flush=True))
"""
RANGE_BYTES = 256 * 1024
_BUFFER = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size-mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--polls", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        public = Path(name) / "public"
        path = make_repository(public, options.size_mb * 1_000_000)
        servers = {"slipstream": start_slipstream(public)}
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if nginx is not None:
            servers["nginx"] = start_nginx(nginx, public, Path(name))
        try:
            for process, _ in servers.values():
                _spent[process.pid] = processor_seconds(process)  # starting is not serving
            for what, download in (("whole", download_whole), ("256 KiB ranges", download_ranges)):
                for server, (process, port) in servers.items():
                    report(server, what, process, options, measure(download, port, path, options))
            process, port = servers["slipstream"]
            token = (public.parent / "server" / "operator.token").read_text().strip()
            print(f"polls       {asyncio.run(poll(port, token, options.polls)):8.0f} per second")
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()


def make_repository(public: Path, size: int) -> str:
    """A repository of one blob of random bytes; its path on the server."""
    for folder in ("metadata", "targets", "blobs"):
        (public / folder).mkdir(parents=True)
    date = {"expires": "2099-01-01T00:00:00Z"}
    for name, signed in (
        ("timestamp", {"meta": {"snapshot.json": {"version": 1}}, **date}),
        ("1.snapshot", {"meta": {"targets.json": {"version": 1}}, **date}),
        ("1.targets", {"targets": {}, **date}),
    ):
        (public / "metadata" / f"{name}.json").write_text(json.dumps({"signed": signed}))
    block = os.urandom(1_000_000)
    name = f"blobs/{hashlib.sha256(block).hexdigest()}.payload"
    with (public / name).open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    return "/" + name


def start_slipstream(public: Path) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    command = [sys.executable, "-c", CHILD, str(public), f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    return process, port


def start_nginx(nginx: str, public: Path, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    config = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; "
        f"events {{}} http {{ access_log off; sendfile on; keepalive_requests 1000000; "
        f"{temporary} server {{ listen 127.0.0.1:{port}; root {public}; }} }}"
    )
    process = subprocess.Popen([nginx, "-c", str(config), "-p", str(folder)])
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except ConnectionRefusedError:
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


Download = Callable[[int, str, int], None]


def measure(download: Download, port: int, path: str, options: argparse.Namespace) -> list[float]:
    """Seconds of each round, in which every client takes the whole blob."""
    size = options.size_mb * 1_000_000
    seconds = []
    for _ in range(options.rounds):
        clients = [
            threading.Thread(target=download, args=(port, path, size))
            for _ in range(options.clients)
        ]
        start = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        seconds.append(time.perf_counter() - start)
    return seconds


def download_whole(port: int, path: str, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        receive_body(connection, size, bytearray(_BUFFER))


def download_ranges(port: int, path: str, size: int) -> None:
    buffer = bytearray(_BUFFER)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for first in range(0, size, RANGE_BYTES):
            last = min(first + RANGE_BYTES, size) - 1
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes={first}-{last}\r\n\r\n"
            connection.sendall(head.encode())
            receive_body(connection, last - first + 1, buffer)


def receive_body(connection: socket.socket, size: int, buffer: bytearray) -> None:
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536)
    size -= len(got.partition(b"\r\n\r\n")[2])
    while size:
        count = connection.recv_into(buffer, min(size, len(buffer)))
        if not count:
            raise ConnectionError("the server closed the connection")
        size -= count


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_spent: dict[int, float] = {}


def report(
    server: str,
    what: str,
    process: subprocess.Popen[bytes],
    options: argparse.Namespace,
    seconds: list[float],
) -> None:
    size = options.size_mb * options.clients
    total = processor_seconds(process)
    spent = total - _spent[process.pid]
    _spent[process.pid] = total
    print(
        f"{server:<11} {size / min(seconds):8.0f} MB/s best, "
        f"{size / statistics.median(seconds):6.0f} median, "
        f"{1e3 * spent / options.rounds / size * 1000:6.0f} ms of processor a GB   {what}"
    )


async def poll(port: int, operator: str, count: int) -> float:
    """Polls a second over 16 connections, each a device of its own."""
    from aiohttp import ClientSession, TCPConnector  # noqa: PLC0415 - of the server extra

    base = f"http://127.0.0.1:{port}"
    async with ClientSession(connector=TCPConnector(limit=16)) as session:

        async def register(name: str) -> dict[str, str]:
            headers = {"Authorization": f"Bearer {operator}"}
            body = {"id": name, "product": "gateway"}
            async with session.post(
                f"{base}/api/v1/devices", json=body, headers=headers
            ) as response:
                return {"Authorization": f"Bearer {(await response.json())['token']}"}

        async def run(name: str, token: dict[str, str]) -> None:
            body = {"device": name, "product": "gateway", "release": "1.0", "counter": 1}
            for _ in range(count // 16):
                async with session.post(f"{base}/v1/poll", json=body, headers=token) as response:
                    response.raise_for_status()
                    await response.read()

        tokens = {f"d{n}": await register(f"d{n}") for n in range(16)}
        start = time.perf_counter()
        await asyncio.gather(*(run(name, token) for name, token in tokens.items()))
        return count // 16 * 16 / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
