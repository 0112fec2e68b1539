"""partial.py: what was kept is taken, in order, by the next build with the same key, or not at all."""

from contextlib import suppress
from pathlib import Path

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import Digest
from slipstream.delta.encode import EncodedFrame, encode_full, encode_window
from slipstream.delta.errors import FormatError, Unavailable, UsageError
from slipstream.delta.frame import Part
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.partition import Partition
from slipstream.delta.profile import PROFILES
from slipstream.server.partial import PartialBuild

FAST = PROFILES["fast"]
KEY, OTHER_KEY = Digest.of(b"key"), Digest.of(b"other")


def _pieces() -> list[tuple[EncodedFrame, ...]]:
    """Frames of three pieces: plain ones, a difference, one that packs its content again."""
    library = next(name for name in sorted(available()) if name.startswith("zlib "))
    recipe = Recipe(Packer.ZLIB, (6, 15, 8, 0), library)
    source = bytes(range(256)) * 40
    changed = source[:5000] + b"new" + source[5000:]
    packed = Partition((Part(len(changed), 700, recipe), Part(100, 100)))
    content = changed + bytes(100)
    plain = encode_full(b"plain" * 100, 0, FAST)
    return [
        (plain,),
        encode_window(content, 500, packed, source, (ByteRange(0, len(source)),), FAST),
        (encode_full(b"more" * 100, 500 + 800, FAST),),
    ]


PIECES = _pieces()
TARGETS = [
    ByteRange(
        frames[0].frame.target.offset,
        frames[-1].frame.target.end - frames[0].frame.target.offset,
    )
    for frames in PIECES
]


def _interrupted(output: Path, count: int, key: Digest = KEY) -> None:
    """A build that is stopped when it has so many pieces."""
    with suppress(KeyboardInterrupt), PartialBuild(output) as build:
        build.open(key)
        for frames, target in zip(PIECES[:count], TARGETS[:count], strict=True):
            if build.take(target) is None:
                build.keep(frames)
        raise KeyboardInterrupt


def _taken(output: Path, key: Digest = KEY) -> list[tuple[EncodedFrame, ...]]:
    """What the next build finds; it is interrupted too."""
    taken = []
    with suppress(KeyboardInterrupt), PartialBuild(output) as build:
        build.open(key)
        for target in TARGETS:
            frames = build.take(target)
            if frames is None:
                break
            taken.append(frames)
        raise KeyboardInterrupt
    return taken


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("count", range(4))
def test_what_was_kept_is_taken(tmp_path: Path, count: int) -> None:
    _interrupted(tmp_path / "out", count)
    assert _names(tmp_path) == ([".out.parts", ".out.parts/frames"] if count else [])
    assert _taken(tmp_path / "out") == PIECES[:count]
    _interrupted(tmp_path / "out", 3)
    assert _taken(tmp_path / "out") == PIECES


def test_under_another_key_nothing_is_taken(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", 3)
    assert _taken(tmp_path / "out", OTHER_KEY) == []
    assert _taken(tmp_path / "out") == []


def test_a_record_that_is_cut_short_or_damaged_ends_it(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", 3)
    frames = tmp_path / ".out.parts" / "frames"
    whole = frames.read_bytes()
    for size in range(len(whole)):
        frames.write_bytes(whole[:size])
        taken = _taken(tmp_path / "out")
        assert taken == PIECES[: len(taken)]
        assert len(taken) < 3
        # what follows the last whole record is gone: records may be added to it
        (tmp_path / ".out.parts").mkdir(exist_ok=True)
    for at in range(32, len(whole), 7):
        frames.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        taken = _taken(tmp_path / "out")
        assert taken == PIECES[: len(taken)]
        assert len(taken) < 3
        (tmp_path / ".out.parts").mkdir(exist_ok=True)


def test_records_are_added_behind_the_last_whole_one(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", 2)
    frames = tmp_path / ".out.parts" / "frames"
    frames.write_bytes(frames.read_bytes()[:-1])
    _interrupted(tmp_path / "out", 3)
    assert _taken(tmp_path / "out") == PIECES


def test_frames_of_another_place_are_not_taken(tmp_path: Path) -> None:
    _interrupted(tmp_path / "out", 1)
    with PartialBuild(tmp_path / "out") as build:
        build.open(KEY)
        assert build.take(ByteRange(TARGETS[0].offset, TARGETS[0].size + 1)) is None


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (None, False),
        (OSError, False),
        (FormatError, False),
        (UsageError, False),
        (KeyboardInterrupt, True),
        (Unavailable, True),
        (RuntimeError, True),
    ],
)
def test_the_folder_stays_where_going_on_helps(
    tmp_path: Path, error: type[BaseException] | None, *, is_kept: bool
) -> None:
    with suppress(error or ()), PartialBuild(tmp_path / "out") as build:
        build.scratch.write(b"much")
        build.open(KEY)
        build.keep(PIECES[0])
        if error:
            raise error("so")
    assert _names(tmp_path) == ([".out.parts", ".out.parts/frames"] if is_kept else [])


def test_one_build_at_a_time_writes_an_output(tmp_path: Path) -> None:
    with PartialBuild(tmp_path / "out"):
        with pytest.raises(UsageError, match="another build writes this output"):
            PartialBuild(tmp_path / "out")
        with PartialBuild(tmp_path / "other"):
            pass
    with PartialBuild(tmp_path / "out"):
        pass


def test_the_scratch_file_of_a_build_that_was_killed_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.parts").mkdir()
    left = tmp_path / ".out.parts" / "scratch.0123"
    left.write_bytes(b"left")
    with PartialBuild(tmp_path / "out") as build:
        assert not left.exists()
        assert Path(build.scratch.name).parent == left.parent
