"""A gzip that gives its bytes late: what waits for it is bounded, and nothing is lost but bytes."""

import shutil
from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Part
from slipstream.delta.limits import HELD_BYTES_MAX, KIB, MIB
from slipstream.delta.packing import pack as module
from slipstream.delta.packing.gnu_gzip import GnuGzip
from slipstream.delta.packing.recipe import Packer
from slipstream.delta.repack import Repacker
from tests.delta.payloads import Made, Maker, long_parts, noise, pieces, recipe_of, run

RECIPE = recipe_of(Packer.GZIP_GNU, 6)


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU gzip, whose output waits in a file until it has ended."""
    command = tmp_path / "gzip"
    gzip = shutil.which("gzip")
    out = tmp_path / "out"
    command.write_text(f'#!/bin/sh\n{gzip} "$@" > {out}; /bin/cat {out}\n')
    command.chmod(0o755)
    version = RECIPE.library.partition(" ")[2]
    monkeypatch.setattr(module, "gzips", lambda: {RECIPE.library: GnuGzip(str(command), version)})


def payload(between_bytes: int) -> tuple[Made, list[bytes]]:
    """A stream of eight frames, with others between them."""
    contents = pieces(noise(1, 2 * MIB), 256 * KIB)
    packed, parts = long_parts(RECIPE, contents)
    maker = Maker()
    fed: list[bytes] = []
    done = 0
    for part, content in zip(parts, contents, strict=True):
        assert isinstance(part, Part)
        maker.data(content, made=packed[done : done + part.packed_size], parts=[part])
        fed.append(content)
        done += part.packed_size
        if between_bytes and not part.ends:
            maker.data(noise(2, between_bytes))
            fed.append(noise(2, between_bytes))
    return maker.finish(), fed


@pytest.mark.usefixtures("late")
def test_a_late_gzip_makes_the_same_bytes() -> None:
    for between_bytes in (0, 100 * KIB):
        made, _ = payload(between_bytes)
        assert run(made) == made.target


@pytest.mark.usefixtures("late")
def test_what_waits_for_a_late_gzip_is_bounded() -> None:
    """The stream is given up as soon as too much waits: then nothing is held, or owed, any more."""
    between_bytes = MIB
    made, fed = payload(between_bytes)
    repacker = Repacker(made.index.frames, lambda _offset, size: bytes(size))
    waiting: list[int] = []  # bytes of frames between that were fed

    def feed_all() -> None:
        for number, content in enumerate(fed):
            if made.index.frames[number].long_part is None:
                waiting.append(len(content))
            assert repacker.feed(number, content) == []

    with pytest.raises(FormatError, match="too many bytes wait"):
        feed_all()
    assert sum(waiting[:-1]) <= HELD_BYTES_MAX < sum(waiting)
    assert repacker.due_offset is None


def test_a_quick_gzip_lets_the_same_frames_pass() -> None:
    made, _ = payload(MIB)
    assert run(made) == made.target
