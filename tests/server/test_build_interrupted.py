"""build.py and `slipstream diff`, interrupted: nothing runs on, nothing is left that nobody needs, and
the next run goes on to the same bytes."""

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from slipstream.delta.limits import MIB
from slipstream.server.build import BuiltPayload, build_payload
from slipstream.server.patch import apply_payload
from tests.server.image_pairs import make_image, make_trees


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two kernel images with a compressed initrd: a long stream."""
    folder = tmp_path_factory.mktemp("images")
    trees = make_trees(folder / "trees", nested=True)
    return (
        make_image("uki", trees.source, folder / "source"),
        make_image("uki", trees.target, folder / "target"),
    )


def _build(images: tuple[Path, Path], output: Path, **options: object) -> BuiltPayload:
    settings = {"jobs": 1, "memory_bytes": 96 * MIB, "profile": "fast", **options}
    return build_payload(*images, output, **settings)


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(
    tmp_path: Path, images: tuple[Path, Path]
) -> None:
    """At the first step of the progress, then at the second ...: until it completes."""
    whole = _build(images, tmp_path / "whole").path.read_bytes()
    output = tmp_path / "payload"
    stops = 0
    said: list[str] = []
    while not output.exists():
        steps: list[int] = []
        stop = partial(_stop_at, stops, steps)
        try:
            _build(images, output, on_progress=stop, say=said.append)
        except KeyboardInterrupt:
            stops += 1
    assert stops > 4
    assert sum("goes on with an interrupted build" in words for words in said) >= stops - 1
    assert output.read_bytes() == whole
    assert _names(tmp_path) == ["payload", "whole"]
    apply_payload(images[0], output, tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == images[1].read_bytes()


def _stop_at(number: int, steps: list[int], what: str, done: int, _total: int) -> None:
    if what == "encode":
        steps.append(done)
        if len(steps) > number:
            raise KeyboardInterrupt


def test_what_was_made_is_not_made_again(tmp_path: Path, images: tuple[Path, Path]) -> None:
    output = tmp_path / "payload"

    def stop(what: str, done: int, total: int) -> None:
        if what == "encode" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _build(images, output, on_progress=stop)
    frames = tmp_path / ".payload.parts" / "frames"
    stands = frames.read_bytes()
    sizes = []

    def look(what: str, *_: int) -> None:
        if what == "encode":
            sizes.append(frames.stat().st_size)

    _build(images, output, on_progress=look)
    assert set(sizes) == {len(stands)}


@pytest.mark.parametrize("other", ["profile", "memory", "source"])
def test_other_inputs_begin_anew(tmp_path: Path, images: tuple[Path, Path], other: str) -> None:
    output = tmp_path / "payload"

    def stop(what: str, done: int, total: int) -> None:
        if what == "encode" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _build(images, output, on_progress=stop)
    options: dict[str, object] = {}
    source = images[0]
    if other == "profile":
        options["profile"] = "balanced"
    elif other == "memory":
        options["memory_bytes"] = 128 * MIB
    else:
        source = tmp_path / "source"
        data = bytearray(images[0].read_bytes())
        data[-1] ^= 1
        source.write_bytes(data)
    said: list[str] = []
    _build((source, images[1]), output, say=said.append, **options)
    assert not any("goes on" in words for words in said)
    alone = _build((source, images[1]), tmp_path / "alone", **options)
    assert output.read_bytes() == alone.path.read_bytes()


def _children(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def _diff(images: tuple[Path, Path], output: Path) -> list[str]:
    program = [sys.executable, "-m", "slipstream", "diff", *map(str, images), "-o", str(output)]
    return [*program, "--jobs", "2", "--profile", "small"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_slipstream_diff_ends_and_goes_on(
    tmp_path: Path, images: tuple[Path, Path], number: signal.Signals
) -> None:
    """Signalled as soon as one piece is encoded; as a terminal does it, with all its children."""
    output = tmp_path / "payload"
    frames = tmp_path / ".payload.parts" / "frames"
    # A shell in whose background the tests were started has it ignored.
    words = ["env", "--default-signal=INT", *_diff(images, output)]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as build:
        while build.poll() is None and not (frames.exists() and frames.stat().st_size > 32):
            select.select([], [], [], 0.01)
        assert build.poll() is None, "it was done before it could be interrupted"
        ends = [os.pidfd_open(pid) for pid in _children(build.pid)]
        if number is signal.SIGINT:
            os.killpg(build.pid, number)
        else:
            build.send_signal(number)
        _, said = build.communicate(timeout=120)
    try:
        assert len(ends) >= 2
        for end in ends:  # a pidfd is readable when its process has ended
            assert select.select([end], [], [], 120)[0]
    finally:
        for end in ends:
            os.close(end)
    assert build.returncode != 0
    assert not output.exists()
    if number is not signal.SIGKILL:
        assert build.returncode == 128 + number
        assert said.splitlines()[-1].endswith("it goes on from what is encoded")
        assert _names(tmp_path) == [".payload.parts", ".payload.parts/frames"]

    again = subprocess.run(_diff(images, output), capture_output=True, text=True, check=True)
    assert "goes on with an interrupted build" in again.stderr
    assert _names(tmp_path) == ["payload"]
    alone = tmp_path / "alone"
    subprocess.run(_diff(images, alone), capture_output=True, check=True)
    assert output.read_bytes() == alone.read_bytes()
