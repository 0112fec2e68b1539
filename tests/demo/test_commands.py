"""The slipstream command as the story runs it: shown, read, checked."""

from pathlib import Path

import pytest

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.commands import run_slipstream


def test_command_and_what_it_prints_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    missing = str(tmp_path / "missing")

    ran = run_slipstream("inspect", missing, say=said.append, expect=None)
    shown = run_slipstream("--version", say=said.append)

    assert ran.code != 0
    assert shown.code == 0
    assert said[:2] == [f"\n$ slipstream inspect {missing}", "\n$ slipstream --version"]
    assert said[2].startswith("  slipstream")
    assert min(ran.peak_kib, shown.peak_kib) > 1024


def test_json_lines_are_read_and_not_said(tmp_path: Path) -> None:
    said: list[str] = []
    repo, image = str(tmp_path / "repo"), tmp_path / "image"
    image.write_bytes(bytes(8192))
    run_slipstream("repo", "init", repo, "--product", "p", "--insecure-no-passphrase", say=print)

    ran = run_slipstream("repo", "root-hash", repo, str(image), "--json", say=said.append)

    assert len(said) == 1
    (line,) = ran.lines
    assert len(bytes.fromhex(str(line["root"]))) == 32


def test_other_exit_code_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match=r"inspect .*expected exit code 0, got 2"):
        run_slipstream("inspect", str(tmp_path / "missing"), say=print)
