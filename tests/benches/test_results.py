"""A result stands for its images and its tool's version, and for nothing else."""

from dataclasses import replace
from pathlib import Path

from benches.contest import Cell, Contender
from benches.corpus import ROWS
from benches.matrix import cached_cell
from benches.measure import Cost
from benches.peers import PEERS
from benches.report import DOCS, page, write_report
from benches.results import ResultCache, RowResults, load_all

IMAGES = RowResults("aa", "bb", 1_000_000, 1_000_000)
COST = Cost(2.0, 1.5, 300 << 20, 200 << 20, 0.1)
ROW = ROWS["small/ext4-1k"]


def cell(payload_bytes: int, version: str = "1", others_cpu_s: float = 0.1) -> Cell:
    cost = replace(COST, others_cpu_s=others_cpu_s)
    return Cell(version, payload_bytes, cost, cost, machine="2 x test")


def contender(version: str) -> Contender:
    return Contender("zstd", "zstd", lambda: version, PEERS["xz"].encode, PEERS["xz"].decode)


def test_a_cell_comes_back_for_its_version_and_images_only(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    cache.store(ROW.name, IMAGES, "zstd", cell(5))
    others = replace(IMAGES, target_sha256="cc")

    assert cached_cell(contender("1"), ROW, IMAGES, cache) == cell(5)
    assert cached_cell(contender("2"), ROW, IMAGES, cache) is None
    assert cached_cell(contender("1"), ROW, others, cache) is None
    assert cached_cell(contender("1"), ROWS["small/erofs"], IMAGES, cache) is None


def test_cells_of_one_pair_of_images_gather_and_others_go(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    cache.store(ROW.name, IMAGES, "zstd", cell(5))
    cache.store(ROW.name, IMAGES, "xz", Cell("1", skipped="over 9 s"))
    known = cache.load(ROW.name)
    assert known is not None
    assert set(known.cells) == {"zstd", "xz"}

    cache.store(ROW.name, replace(IMAGES, source_sha256="cc"), "xdelta3", cell(7))

    known = cache.load(ROW.name)
    assert known is not None
    assert known.cells == {"xdelta3": cell(7)}


def test_the_report_keeps_what_other_runs_measured(tmp_path: Path) -> None:
    first, second = ResultCache(tmp_path / "first"), ResultCache(tmp_path / "second")
    first.store(ROW.name, IMAGES, "xdelta3", cell(4_000_000))
    first.store(ROW.name, IMAGES, "ours-small", cell(800_000))
    first.store("full/erofs", IMAGES, "xz", cell(9_000_000))
    second.store(ROW.name, IMAGES, "ours-balanced", cell(1_000_000, others_cpu_s=1.5))

    write_report(first, tmp_path)
    write_report(second, tmp_path)

    rows = load_all(tmp_path / "benchmarks.json")
    assert set(rows) == {ROW.name, "full/erofs"}
    assert set(rows[ROW.name].cells) == {"xdelta3", "ours-small", "ours-balanced"}
    page_text = (tmp_path / "benchmarks.md").read_text()
    assert (
        "| slipstream balanced | 1,000,000 | 0.250 | ~2.0 (1.5) | 300 | ~2.0 (1.5) | 200 |"
        in page_text
    )
    assert (
        "| ext4, 1 KiB blocks | small | 4,000,000 xdelta3 -9 -S lzma | 800,000 | 0.200 | 0.5 | 1,000,000 |  |"
        in page_text
    )
    assert "| xdelta3 -9 -S lzma | 4,000,000 | 1.000 | 2.0 (1.5) |" in page_text
    assert "Measured on 2 x test.\n" in page_text
    assert "4.00" in (tmp_path / "benchmarks/ext4-1k.svg").read_text()


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "cache")
    cache.store(ROW.name, IMAGES, "xdelta3", cell(4_000_000))
    cache.store(ROW.name, IMAGES, "zstd", Cell("1", skipped="over 1200 s"))

    def files() -> dict[str, bytes]:
        write_report(cache, tmp_path)
        return {path.name: path.read_bytes() for path in tmp_path.glob("benchmarks*/*.svg")} | {
            path.name: path.read_bytes() for path in tmp_path.glob("benchmarks.*")
        }

    first = files()

    assert set(first) == {"ext4-1k.svg", "benchmarks.md", "benchmarks.json"}
    assert b"over 1200 s" in first["benchmarks.md"]
    assert files() == first


def test_the_page_says_what_the_json_file_says() -> None:
    rows = load_all(DOCS / "benchmarks.json")

    assert rows
    assert (DOCS / "benchmarks.md").read_text() == page(rows)
    for row in rows:
        assert (DOCS / f"benchmarks/{ROWS[row].kind.name}.svg").exists()
