"""The executable that the tuf-conformance suite drives, as the suite drives it: over HTTP.

Its cases that depend on the command line, on HTTP or on real clocks; the rules themselves are
tested in tests/delta/test_trust.py and tests/installer/test_refresh.py.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner

from tests.conformance.repository import Repository

CLIENT = Path(__file__).with_name("tuf_client.py")


class Suite:
    """A repository behind a web server, and the client under test with its folders."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(expires=datetime.now(UTC) + timedelta(days=30))
        self.first_root = self.repository.files["metadata/1.root.json"]
        self.metadata = folder / "metadata"
        self.artifacts = folder / "targets"
        self.metadata.mkdir()
        self.artifacts.mkdir()
        self.asked: list[str] = []
        suite = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                suite.asked.append(path)
                raw = suite.repository.fetch(path)
                if raw is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def run(self, *words: str) -> int:
        self.asked.clear()
        command = [sys.executable, str(CLIENT), "--metadata-dir", str(self.metadata), *words]
        return subprocess.run(command, check=False, timeout=60, capture_output=True).returncode

    def init(self) -> int:
        root = self.metadata.parent / "initial_root.json"
        root.write_bytes(self.first_root)
        return self.run("init", str(root))

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self.url}/metadata", "refresh")

    def download(self, *names: str) -> int:
        words = ["--metadata-url", f"{self.url}/metadata/", "--target-base-url"]
        words += [f"{self.url}/targets/", "--target-dir", str(self.artifacts)]
        for name in names:
            words += ["--target-name", name]
        return self.run(*words, "download")

    def trusted(self) -> dict[str, int]:
        return {
            path.stem: json.loads(path.read_bytes())["signed"]["version"]
            for path in self.metadata.glob("*.json")
        }

    def downloaded(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.artifacts.rglob("*") if path.is_file())


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    suite = Suite(tmp_path)
    yield suite
    suite.close()


def test_init_asks_nobody_and_refresh_asks_in_order(suite: Suite) -> None:
    assert suite.init() == 0
    assert suite.asked == []
    assert suite.trusted() == {"root": 1}
    assert suite.refresh() == 0
    assert suite.asked == [
        f"metadata/{name}.json" for name in ("2.root", "timestamp", "1.snapshot", "1.targets")
    ]
    assert suite.trusted() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


def test_an_unsound_first_root_fails_without_a_request(suite: Suite) -> None:
    document = json.loads(suite.first_root)
    del document["signed"]["version"]
    suite.first_root = json.dumps(document).encode()
    suite.init()
    assert suite.refresh() == 1
    assert suite.asked == []


def test_stored_bytes_are_the_bytes_served(suite: Suite) -> None:
    suite.repository.files["metadata/timestamp.json"] += b" "
    assert suite.init() == 0
    assert suite.refresh() == 0
    stored = (suite.metadata / "timestamp.json").read_bytes()
    assert stored == suite.repository.files["metadata/timestamp.json"]


def test_downloads_are_kept_and_not_fetched_twice(suite: Suite) -> None:
    suite.repository.add_target("targets", "path/to/a file.txt", b"one")
    suite.repository.add_target("targets", "b", b"two")
    suite.repository.publish("targets", "snapshot", "timestamp")
    assert suite.init() == 0
    assert suite.download("path/to/a file.txt", "b") == 0
    assert suite.downloaded() == [b"one", b"two"]
    assert suite.download("b") == 0
    assert not any(path.startswith("targets/") for path in suite.asked)
    suite.repository.add_target("targets", "b", b"three")
    suite.repository.publish("targets", "snapshot", "timestamp")
    assert suite.download("b") == 0
    assert suite.downloaded() == [b"one", b"three"]
    assert suite.download("nobody signed this") == 1
    for path in suite.repository.files:
        if path.startswith("targets/"):
            suite.repository.files[path] = b"malicious"
    suite.repository.add_target("targets", "c", b"four")
    suite.repository.publish("targets", "snapshot", "timestamp")
    suite.repository.files = {
        path: b"evil" if path.startswith("targets/") else raw
        for path, raw in suite.repository.files.items()
    }
    assert suite.download("c") == 1
    assert suite.downloaded() == [b"one", b"three"]


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole"])
def test_unusual_role_names_are_quoted_on_the_wire_and_on_disk(suite: Suite, role: str) -> None:
    suite.repository.delegate(role)
    suite.repository.publish(role, "targets", "snapshot", "timestamp")
    assert suite.init() == 0
    assert suite.download("nonexistent") == 1
    assert suite.asked[-1] == f"metadata/1.{quote(role, safe='')}.json"
    assert len(suite.trusted()) == 5


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("rsa", "rsassa-pss-sha256"),
        ("rsa", "rsa-pkcs1v15-sha256"),
        ("ecdsa", "ecdsa-sha2-nistp256"),
        ("ed25519", "ed25519"),
    ],
)
def test_each_key_type_of_the_suite(suite: Suite, kind: str, scheme: str) -> None:
    signer = (
        CryptoSigner.generate_rsa(scheme=scheme)
        if kind == "rsa"
        else getattr(CryptoSigner, f"generate_{kind}")()
    )
    suite.repository.add_key("snapshot", signer)
    suite.repository.root.roles["snapshot"].threshold = 2
    suite.repository.publish("root", "snapshot", "timestamp")
    assert suite.init() == 0
    assert suite.refresh() == 0
    assert suite.trusted()["snapshot"] == 2


def test_the_clock_of_the_process_decides(suite: Suite) -> None:
    suite.repository.timestamp.expires = datetime.now(UTC) - timedelta(seconds=1)
    suite.repository.publish("timestamp")
    assert suite.init() == 0
    assert suite.refresh() == 1
    assert suite.trusted() == {"root": 1}


def test_wrong_words_are_refused(suite: Suite) -> None:
    assert suite.init() == 0
    assert suite.run("--metadata-url", suite.url, "download") == 1
    assert suite.run("unknown") == 2
