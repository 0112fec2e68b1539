"""plan.py: pieces cover the target, and what stands packed in the source is copied as it is."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipstream.delta.frame import FrameKind
from slipstream.delta.limits import MIB
from slipstream.delta.profile import PROFILES
from slipstream.server.image import ImageFile
from slipstream.server.plan import DeltaPlan, DeltaPlanner
from slipstream.server.pool import open_pool
from slipstream.server.progress import Say, unheard, unwatched
from slipstream.server.scan import scan_images
from slipstream.server.workspace import WorkFiles
from tests.server.image_pairs import Pair, make_image, make_tree, make_trees


def _plan(folder: Path, source: Path, target: Path, jobs: int = 1, say: Say = unheard) -> DeltaPlan:
    scratch = folder / "scratch"
    with (
        ImageFile(source) as one,
        ImageFile(target) as other,
        scratch.open("w+b") as file,
        ThreadPoolExecutor(2) as threads,
        open_pool(jobs) as pool,
    ):
        files = WorkFiles(source, target, scratch, one.size, other.size)
        effort = PROFILES["fast"].within(96 * MIB)
        planner = DeltaPlanner(one, other, files, file, effort, pool, threads, unwatched, say)
        plan = planner.plan(*scan_images((one, other), threads, unwatched))
    _check(plan, files)
    return plan


def _check(plan: DeltaPlan, files: WorkFiles) -> None:
    """Pieces follow one another; blocks too; and a piece reads only what there is."""
    end = files.base
    for block in plan.blocks:
        assert block.content.offset == end
        assert all(place.end <= end for place in block.places)
        end = block.content.end
    position = 0
    for piece in plan.pieces:
        assert piece.target.offset == position
        position = piece.target.end
        assert all(source.end <= end for source in piece.sources)
        if piece.partition is not None:
            assert piece.partition.target_size == piece.target.size
            assert piece.partition.content_size == sum(one.size for one in piece.content)
    assert position == files.target_size


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_trees(tmp_path_factory.mktemp("trees"), nested=False)


def test_equal_images_are_only_copied(tmp_path: Path, trees: Pair) -> None:
    image = make_image("squashfs zstd", trees.source, tmp_path / "image")
    plan = _plan(tmp_path, image, image)
    assert {piece.kind for piece in plan.pieces} <= {FrameKind.COPY, FrameKind.ZERO}
    assert plan.blocks == []


def test_packed_blocks_that_stand_in_the_source_are_copied_as_they_are(
    tmp_path: Path, trees: Pair
) -> None:
    """One module of six changes: its blocks and the tables are packed again, no others."""
    tree = tmp_path / "tree"
    shutil.copytree(trees.source, tree)
    module = tree / "lib/modules/6.1.19/module-2.ko"
    module.write_bytes(module.read_bytes().replace(b"\xe8", b"\xe9"))
    source = make_image("squashfs zstd", trees.source, tmp_path / "source")
    target = make_image("squashfs zstd", tree, tmp_path / "target")
    plan = _plan(tmp_path, source, target)
    packed = sum(piece.target.size for piece in plan.pieces if piece.kind is FrameKind.DIFF)
    assert 30_000 < packed < target.stat().st_size // 3
    # of the target only those were opened
    opened = [one for one in plan.blocks if one.end]
    assert len(opened) <= 5


def test_the_same_plan_whatever_the_jobs(tmp_path: Path, trees: Pair) -> None:
    source = make_image("squashfs xz", trees.source, tmp_path / "source")
    target = make_image("squashfs xz", trees.target, tmp_path / "target")
    once, again = (_plan(tmp_path, source, target, jobs) for jobs in (1, 2))
    assert once == again
    assert any(one.recipe for one in once.blocks)


def test_windows_are_coded_from_files_of_the_same_name(tmp_path: Path, trees: Pair) -> None:
    source = make_image("squashfs gzip", trees.source, tmp_path / "source")
    target = make_image("squashfs gzip", trees.target, tmp_path / "target")
    plan = _plan(tmp_path, source, target)
    contents = [one.content for one in plan.blocks if not one.end]
    coded = [piece for piece in plan.pieces if piece.partition and piece.target.size > 10_000]
    assert coded
    for piece in coded:
        assert any(one.overlaps(source) for one in contents for source in piece.sources)


def test_long_streams_follow_their_like(tmp_path: Path) -> None:
    trees = Pair(
        make_tree(tmp_path / "1", later=False, nested=True),
        make_tree(tmp_path / "2", later=True, nested=True),
    )
    source = make_image("uki", trees.source, tmp_path / "source")
    target = make_image("uki", trees.target, tmp_path / "target")
    said: list[str] = []
    plan = _plan(tmp_path, source, target, say=said.append)
    of_source, of_target = (one.content for one in plan.blocks if one.is_long)
    long = [piece for piece in plan.pieces if piece.partition and piece.partition.long_part]
    assert len(long) >= 2
    for piece in long:
        made = next(one for one in piece.content if one.overlaps(of_target))
        same = of_source.offset + made.offset - of_target.offset
        assert any(abs(one.offset - same) < MIB // 2 for one in piece.sources)
    assert not plan.notes
    assert sorted(said) == [
        f"source {source}: no file system or partition table is known here",
        f"target {target}: no file system or partition table is known here",
    ]
