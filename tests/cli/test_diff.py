"""`slipstream diff`: what it says while it runs, where it may run, and that it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.server.build import build_payload
from tests.server.image_pairs import archive, code


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "slipstream", "diff", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("source", "target"):
        files = {f"file-{n}": code(n, 300_000, later=name == "target") for n in range(4)}
        (tmp_path / name).write_bytes(archive(files))
    return tmp_path / "source", tmp_path / "target"


def test_what_could_not_be_read_is_said_but_not_to_programs(
    tmp_path: Path, images: tuple[Path, Path]
) -> None:
    for_people = run(*images, "-o", tmp_path / "payload", "--profile", "fast")
    for_programs = run(*images, "-o", tmp_path / "payload", "--profile", "fast", "--json")
    assert "source: no file system or partition table is known here" in for_people.stderr
    assert for_programs.stderr == ""
    assert json.loads(for_programs.stdout)["payload_bytes"] == (
        (tmp_path / "payload").stat().st_size
    )


def test_an_interrupted_build_goes_on(tmp_path: Path, images: tuple[Path, Path]) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "encode" and done == total:
            raise KeyboardInterrupt

    output = tmp_path / "payload"
    with pytest.raises(KeyboardInterrupt):
        build_payload(*images, output, jobs=1, memory_bytes=96 << 20, on_progress=stop)
    done = run(*images, "-o", output)
    assert done.returncode == 0
    assert "goes on with an interrupted build" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["payload", "source", "target"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--jobs", "2", "--workers", "dask://127.0.0.1:1"], 2, "exclude each other"),
        (["--workers", "127.0.0.1:1"], 2, "expected a number, or dask://HOST:PORT"),
        (["--workers", "dask://127.0.0.1:1"], 5, "no Dask scheduler answers"),
    ],
)
def test_workers_that_cannot_be(
    tmp_path: Path, images: tuple[Path, Path], words: list[str], code: int, said: str
) -> None:
    if code == 5:
        pytest.importorskip("distributed")
    done = run(
        *images, "-o", tmp_path / "payload", *words, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1s"
    )
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.startswith("slipstream: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
