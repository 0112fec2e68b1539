"""A run goes on where an earlier one was, and says what it took from there."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benches import matrix

ROOT = Path(__file__).parents[2]
ROW = "small/erofs"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The two images of a row, in place of those that would take minutes to build."""
    images = tmp_path / "images"
    images.mkdir()
    data = random.Random(5).randbytes(300_000)
    (images / "small-1.erofs.img").write_bytes(data)
    (images / "small-2.erofs.img").write_bytes(data[:100_000] + b"2.0" + data[100_000:])
    return tmp_path


def run(cache: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    arguments = ["matrix", "--cache", str(cache), "--rows", ROW, *words]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        matrix.main()
    return int(ended.value.code or 0)


def test_a_second_run_measures_only_what_is_new(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, monkeypatch, "--contenders", "zstd") == 0
    assert "cached" not in capsys.readouterr().out

    assert run(cache, monkeypatch, "--contenders", "zstd", "casync") == 0

    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert said["zstd"].endswith("cached")
    assert not said["casync"].endswith("cached")


def test_a_short_run_measures_the_quick_anew_and_leaves_the_slow(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run(cache, monkeypatch, "--quick", "--contenders", "xdelta3", "hdiffpatch") == 0

    said = capsys.readouterr().out
    assert said.count("not cached") == 2
    assert said.replace("not cached", "").count("cached") == 0


def test_a_failure_ends_nothing_but_is_told(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = cache / "bin"
    broken.mkdir()
    (broken / "xdelta3").write_text("#!/bin/sh\necho no luck >&2\nexit 9\n")
    (broken / "xdelta3").chmod(0o755)
    monkeypatch.setenv("PATH", str(broken), prepend=":")

    assert run(cache, monkeypatch, "--contenders", "xdelta3", "zstd") == 1

    said = capsys.readouterr().out
    assert "xdelta3 failed: 9" in said
    assert "no luck" in said
    assert "zstd -19" in said


def test_the_command_being_measured_ends_with_the_run(cache: Path) -> None:
    tools, line = cache / "bin", cache / "line"
    tools.mkdir()
    os.mkfifo(line)
    # The command keeps the line open: it has an end when the command has.
    (tools / "xdelta3").write_text(f"#!/bin/sh\nexec 3>{line}\necho begun >&3\nexec sleep 600\n")
    (tools / "xdelta3").chmod(0o755)
    words = ["-m", "benches.matrix", "--cache", cache, "--rows", ROW, "--contenders", "xdelta3"]
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
    ) as run:
        with line.open() as heard:
            assert heard.readline() == "begun\n"
            run.terminate()
            assert heard.read() == ""
        run.communicate()

    assert run.returncode != 0
