"""What the demonstration says at its end."""

import subprocess
from pathlib import Path

import pytest

from slipstream.demo.fleet import this_command


def test_the_command_can_be_typed_whether_or_not_it_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = subprocess.run(
        [*this_command().split(), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("slipstream")
    (tmp_path / "slipstream").write_text("")
    (tmp_path / "slipstream").chmod(0o755)
    assert this_command() == "slipstream"
