"""What a payload's table has room for is told before anything is encoded, and kept to."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import MIB
from slipstream.delta.moves import Shifts
from slipstream.delta.payload import Index
from slipstream.delta.unfold import OpenBlock
from slipstream.delta.windows import Piece
from slipstream.server import build, fitting
from slipstream.server.build import build_payload
from slipstream.server.fitting import TableNeeds
from slipstream.server.patch import apply_payload
from tests.server.image_pairs import Pair, make_image, make_trees

KIND = "squashfs zstd"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("images")
    trees = make_trees(folder / "trees", nested=False)
    return Pair(
        make_image(KIND, trees.source, folder / "source"),
        make_image(KIND, trees.target, folder / "target"),
    )


def _build(folder: Path, pair: Pair, said: list[str]) -> Index:
    built = build_payload(
        pair.source,
        pair.target,
        folder / "payload",
        jobs=1,
        memory_bytes=96 * MIB,
        profile="fast",
        say=said.append,
    )
    apply_payload(pair.source, folder / "payload", folder / "made")
    assert (folder / "made").read_bytes() == pair.target.read_bytes()
    return built.index


def _parts(index: Index) -> int:
    return sum(part.recipe is not None for one in index.frames for part in one.parts)


def test_an_estimate_is_not_below_what_is_written(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TableNeeds] = []
    of = TableNeeds.of

    def watched(
        pieces: Sequence[Piece], blocks: Sequence[OpenBlock], shifts: Sequence[Shifts]
    ) -> TableNeeds:
        seen.append(of(pieces, blocks, shifts))
        return seen[-1]

    monkeypatch.setattr(TableNeeds, "of", staticmethod(watched))
    index = _build(tmp_path, pair, [])
    [needs] = seen
    table_size = int.from_bytes(index.raw[28:32], "little")  # docs/format.md, 3
    assert table_size <= needs.size_bytes
    assert len(index.streams) <= needs.streams


@pytest.mark.parametrize("limit", ["STREAMS_MAX", "FRAME_TABLE_BYTES_MAX"])
def test_what_the_table_has_no_room_for_stays_packed(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    said: list[str] = []
    whole = _build(tmp_path, pair, said)
    assert said == []
    table_size = int.from_bytes(whole.raw[28:32], "little")
    least = {"STREAMS_MAX": len(whole.streams), "FRAME_TABLE_BYTES_MAX": table_size}[limit]
    monkeypatch.setattr(fitting, limit, least * 3 // 4)
    part = _build(tmp_path, pair, said)

    assert 0 < _parts(part) < _parts(whole)
    assert "are coded as they are packed" in said[0]
    table_size = int.from_bytes(part.raw[28:32], "little")
    kept = {"STREAMS_MAX": len(part.streams), "FRAME_TABLE_BYTES_MAX": table_size}[limit]
    assert kept <= least * 3 // 4


def test_what_does_not_fit_at_all_is_told_before_it_is_encoded(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "FRAME_TABLE_BYTES_MAX", 1)
    monkeypatch.setattr(build, "PieceEncoder", None)
    with pytest.raises(UsageError, match="table has room for"):
        _build(tmp_path, pair, [])


def test_too_many_frames_are_told_at_the_first_one_too_many(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FRAMES_MAX", 1)
    with pytest.raises(UsageError, match="more frames than"):
        _build(tmp_path, pair, [])
