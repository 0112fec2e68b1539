"""python -m e2e [CASE...]: runs cases one after the other; exit code 1 where one fails."""

import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import click

from e2e.cases import CASES, CUTS_FULL, CUTS_SUBSET, SUBSET, Lab
from e2e.guest import build_guest
from e2e.results import Result, render_table, write_results
from slipstream.demo.only_one import only_one

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slipstream/e2e"


@click.command()
@click.argument("names", metavar="[CASE]...", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--full", is_flag=True, help="All cases, and twenty power cuts.")
@click.option(
    "--cuts",
    type=click.IntRange(1, 1000),
    help="Power cuts; 3 in one update, or 20 in 20 with --full.",
)
@click.option("--seed", default=1, show_default=True, help="Of the moments of the power cuts.")
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/e2e"), show_default=True,
              help="Logs and results; what stands there of the last run is removed.")  # fmt: skip
def main(
    names: tuple[str, ...], full: bool, cuts: int | None, seed: int, cache: Path, output: Path
) -> None:
    """Run the subset of the end to end cases, or those that are named."""
    # So that every context ends, and with it QEMU and the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = names or (tuple(CASES) if full else SUBSET)
    output = output.absolute()
    with only_one(cache):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        guest = build_guest(cache, click.echo)
        count, an_update = CUTS_FULL if full else CUTS_SUBSET
        lab = Lab(cache, guest, click.echo, seed, cuts or count, an_update)
        results: list[Result] = []
        for name in chosen:
            click.echo(f"{name}: {(CASES[name].__doc__ or '').splitlines()[0]}")
            results.append(_run(lab, name, output / name))
            write_results(output / "results.json", results)
            click.echo(render_table(results[-1:]).split("\n", 1)[1])
    click.echo("\n" + render_table(results) + f"\n\nlogs and results: {output}")
    sys.exit(0 if all(one.passed for one in results) else 1)


def _run(lab: Lab, name: str, folder: Path) -> Result:
    began, used = time.monotonic(), _children_s()
    error, facts, passed = "", {}, False
    try:
        facts = CASES[name](lab, folder)
        passed = True
    except Exception as problem:  # any failure is this case's; the next one is run all the same
        error = str(problem) or repr(problem)
        (folder / "error.txt").write_text(traceback.format_exc())
    # Large, and where nothing failed of no use; the repository is in the cache.
    for repo in folder.rglob("repo"):
        shutil.rmtree(repo)
    for disk in (*folder.rglob("*.raw"), *folder.rglob("*.qcow2")):
        if passed:
            disk.unlink()
    return Result(
        name,
        passed,
        round(time.monotonic() - began, 1),
        round(_children_s() - used, 1),
        error,
        facts,
    )


def _children_s() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
