"""server.py: the one place that starts `slipstream serve` for the demo and the end-to-end tests."""

from pathlib import Path

import pytest

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.commands import run_slipstream
from slipstream.demo.server import start_server


def test_it_serves_answers_its_operator_and_ends(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    init = ("repo", "init", str(repo), "--product", "p", "--insecure-no-passphrase")
    run_slipstream(*init, say=lambda _: None)

    server = start_server(repo, "--poll-interval", "5", log=tmp_path / "log")
    try:
        assert server.says == f"serving {repo} on {server.url}"
        device = server.ask("/api/v1/devices", {"id": "d1", "product": "p"})
        assert [one["id"] for one in server.ask("/api/v1/devices")["items"]] == ["d1"]
        assert device["token"]
        assert "slipstream_" in server.get("/metrics")
    finally:
        server.stop()
    with pytest.raises(OSError, match="refused"):
        server.ask("/api/v1/devices")


def test_one_that_does_not_start_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="did not start") as failed:
        start_server(tmp_path, log=tmp_path / "log")

    assert "not a repository" in Path(str(failed.value.where)).read_text()
