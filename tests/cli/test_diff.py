"""`slipstream diff`: what it says while it runs, where it may run, and that it goes on."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.cli import main
from slipstream.cli.progress import Steps
from slipstream.delta.limits import MIB
from slipstream.delta.profile import DEVICE_BYTES_MIN
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
    assert f"source {images[0]}: no file system or partition table is known" in for_people.stderr
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


def test_a_damaged_file_system_is_named_and_coded_as_it_is(tmp_path: Path) -> None:
    for name in ("source", "target"):
        data = bytearray(bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(50_000))
        data[1024 + 12] = 12  # block size: 4096
        data[1024 + 36] = 200  # blocks
        (tmp_path / name).write_bytes(data)
    done = run(tmp_path / "source", tmp_path / "target", "-o", tmp_path / "payload")
    assert done.returncode == 0
    assert (
        f"source {tmp_path / 'source'}: erofs cannot be read: erofs cut short; expected 819200 bytes,"
        " got 51028. It is taken as plain bytes: a payload may be much larger\n"
    ) in done.stderr


def _diff_main(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["diff", *map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("encoded", [False, True])
def test_an_interrupted_diff_says_whether_it_goes_on(
    tmp_path: Path,
    images: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    encoded: bool,
) -> None:
    def stop(_: Steps, what: str, done: int, total: int) -> None:
        if what == "encode" and (done == total or not encoded):
            raise KeyboardInterrupt

    monkeypatch.setattr(Steps, "report", stop)
    output = tmp_path / "payload"
    assert _diff_main(*images, "-o", output, "--jobs", 1, "--profile", "fast", "--json") == 130
    goes_on = "Nothing was encoded yet: the next run begins anew"
    if encoded:
        goes_on = "Run the same command again: it goes on from what is encoded"
    assert capsys.readouterr().err == f"slipstream: {output}: interrupted. {goes_on}\n"
    assert (tmp_path / ".payload.parts").exists() is encoded


@pytest.mark.parametrize("at", [".payload.parts", ".payload.tmp", "payload", ""])
def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path,
    images: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at: str,
) -> None:
    """Not the file that is there only while it is made."""
    output = tmp_path / "payload"

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / at))

    monkeypatch.setattr("slipstream.server.build.build_payload", refuse)
    assert _diff_main(*images, "-o", output) == 1
    assert capsys.readouterr().err == (
        f"slipstream: {output}: cannot be written; got Permission denied."
        " Name another place; what stood there is unchanged\n"
    )


def test_an_input_that_cannot_be_read_is_not_taken_for_the_output(
    images: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(images[0]))

    monkeypatch.setattr("slipstream.server.build.build_payload", refuse)
    assert _diff_main(*images, "-o", tmp_path / "payload") == 1
    assert capsys.readouterr().err == f"slipstream: {images[0]}: Permission denied\n"


def test_a_name_that_is_too_long_with_what_is_added_to_it(
    tmp_path: Path, images: tuple[Path, Path]
) -> None:
    output = tmp_path / ("n" * 250)
    done = run(*images, "-o", output)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"slipstream: {output}: cannot be written; got File name too long"
    )


@pytest.mark.parametrize("words", ["1MiB", "1048576", "1 MiB", "1024KiB"])
def test_too_little_memory_is_said_in_one_unit(
    tmp_path: Path, images: tuple[Path, Path], words: str
) -> None:
    done = run(*images, "-o", tmp_path / "payload", "--memory", words)
    assert done.returncode == 2
    assert f"expected at least {DEVICE_BYTES_MIN // MIB} MiB, got 1 MiB\n" in done.stderr


def test_an_empty_image_is_refused(
    tmp_path: Path, images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert _diff_main(empty, images[1], "-o", tmp_path / "payload") == 2
    assert f"{empty}: SOURCE is empty. For a payload from nothing give -" in capsys.readouterr().err
    assert _diff_main(images[0], empty, "-o", tmp_path / "payload") == 2
    assert f"{empty}: TARGET is empty. Was the image built?" in capsys.readouterr().err
