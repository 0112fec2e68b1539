"""Web servers that others wrote, as processes on free loopback ports: http.server and nginx."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(*command: str, port: int) -> Iterator[str]:
    """A server process that accepts connections on `port`; its own, and ended here."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):  # it must not end
                    server.wait(0.02)
                assert server.returncode is None, server.stderr and server.stderr.read()
                probe = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                try:
                    probe.request("HEAD", "/")
                    probe.getresponse()
                    break
                except ConnectionError:
                    continue
                finally:
                    probe.close()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.communicate()


@contextmanager
def python_server(public: Path) -> Iterator[str]:
    port = free_port()
    with process(
        sys.executable,
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "-d",
        str(public),
        str(port),
        port=port,
    ) as url:
        yield url


NGINX_CONF = """
{user} daemon off; worker_processes 1; pid {home}/pid; error_log stderr crit;
events {{ worker_connections 32; }}
http {{
  access_log off; default_type application/octet-stream;
  client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
  uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
  server {{ listen 127.0.0.1:{port}; root {root};
    location /once/ {{ alias {root}/; max_ranges 0; }}
    rewrite ^/moved/(.*) /$1 redirect;
  }}
}}
"""


@contextmanager
def nginx_server(public: Path) -> Iterator[str]:
    home = public.parent / "nginx"
    home.mkdir()
    port = free_port()
    user = "" if os.geteuid() else "user root;"  # or its workers cannot read the test's folder
    (home / "nginx.conf").write_text(
        NGINX_CONF.format(home=home, root=public, port=port, user=user)
    )
    assert NGINX is not None
    with process(
        NGINX, "-e", "stderr", "-p", str(home), "-c", str(home / "nginx.conf"), port=port
    ) as url:
        yield url
