"""`slipstream serve` that cannot do what its options say."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from slipstream.cli import cli
from slipstream.delta.errors import UsageError


@pytest.mark.parametrize("told", ["another passphrase", None, "no keys"])
def test_deltas_that_nobody_could_sign_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.delenv("SLIPSTREAM_PASSPHRASE", raising=False)
    repo, secret = tmp_path / "repo", tmp_path / "secret"
    secret.write_text("correct horse battery staple\n")
    init = ["repo", "init", str(repo), "--product", "gateway", "--passphrase-file", str(secret)]
    assert CliRunner().invoke(cli, init).exit_code == 0
    words = ["serve", str(repo), "--listen", "127.0.0.1:0", "--delta-workers", "1"]
    if told == "no keys":
        for one in (repo / "keys").iterdir():
            one.unlink()
    if told is not None:
        secret.write_text(told + "\n")
        words += ["--passphrase-file", str(secret)]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, UsageError), done.exception
    assert str(done.exception).count("--delta-workers") == 1
    assert "key" in str(done.exception)
    assert not (repo / "server").exists()
