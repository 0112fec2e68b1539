"""Fills the table: every contender on every row, one command at a time, and goes on where it was.

    python -m benches.matrix [--rows ROW...] [--contenders NAME...] [--quick] [--again]
                             [--limit-s N] [--cache DIR] [--report]

A cell that was measured before, with this version of the tool on these images, is taken from the
cache and says so. --quick is the short run: it measures the quick contenders anew, so that their
times stand side by side, and takes the others from the cache or leaves them out. A command that
takes more than --limit-s seconds of processor time gives up. --report writes docs/benchmarks.md and
its plots afterwards.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benches.contest import HEADING, Cell, Contender, contest, installed, line
from benches.corpus import CACHE, ROWS, Row, digest_of, images_of
from benches.kinds import missing_for
from benches.ours import OURS
from benches.peers import PEERS
from benches.report import write_report
from benches.results import ResultCache, RowResults
from slipstream.delta.errors import SlipstreamError

CONTENDERS = {**OURS, **PEERS}
LIMIT_S = 20 * 60  # processor time; what takes longer is of no use on a release day


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument(
        "--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS, metavar="NAME"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure what is cached, too")
    parser.add_argument("--limit-s", type=int, default=LIMIT_S)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    cache = ResultCache(options.cache / "results")
    failures = 0
    for name in options.rows:
        reason = missing_for(ROWS[name].kind)
        if reason is not None:
            print(f"\n{name}: left out, {reason}", flush=True)
            continue
        try:
            failures += fill(ROWS[name], options, cache)
        except (SlipstreamError, subprocess.CalledProcessError) as error:
            failures += 1
            print(f"\n{name}: no images, {error}", flush=True)
    if options.report:
        write_report(cache)
    sys.exit(1 if failures else 0)


def fill(row: Row, options: argparse.Namespace, cache: ResultCache) -> int:
    """Measure and print the cells of one row; returns how many failed."""
    source, target = images_of(row, options.cache)
    images = RowResults(
        digest_of(source), digest_of(target), source.stat().st_size, target.stat().st_size
    )
    print(f"\n{row.name}: {row.pair.title}; {row.kind.title}; {images.target_bytes:,} bytes")
    print(HEADING, flush=True)
    failures = 0
    for name in options.contenders:
        contender = CONTENDERS[name]
        if not installed(contender):
            print(f"{contender.title:34}{'not installed':>14}", flush=True)
            continue
        anew = options.again or (options.quick and contender.quick)
        cell = None if anew else cached_cell(contender, row, images, cache)
        if cell is not None:
            print(line(contender, cell, "  cached"), flush=True)
            continue
        if options.quick and not contender.quick:
            print(f"{contender.title:34}{'not cached':>14}", flush=True)
            continue
        try:
            cell = contest(contender, source, target, images.target_sha256, limit_s=options.limit_s)
        except SlipstreamError as error:
            failures += 1
            print(f"{contender.title:34}  failed: {error}", flush=True)
            continue
        cache.store(row.name, images, name, cell)
        print(line(contender, cell), flush=True)
    return failures


def cached_cell(
    contender: Contender, row: Row, images: RowResults, cache: ResultCache
) -> Cell | None:
    """An earlier result with this version of the tool on these images."""
    known = cache.load(row.name)
    if known is None or not known.same_images(images):
        return None
    cell = known.cells.get(contender.name)
    return cell if cell is not None and cell.version == contender.version() else None


if __name__ == "__main__":
    main()
