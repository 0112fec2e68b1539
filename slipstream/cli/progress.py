"""Progress for people: a bar on a terminal, plain lines otherwise, nothing under --json."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import click

PLAIN_LINE_EVERY_S = 5.0


@contextmanager
def progress(
    label: str, *, quiet: bool = False, unit_bytes: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Yield `report(done, total)`; both count bytes, or steps with `unit_bytes` false."""
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bar(label, unit_bytes=unit_bytes) as report:
            yield report
    else:
        yield _plain(label, unit_bytes=unit_bytes)


class Steps:
    """Progress of several steps, one after another: a bar for each."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._what: str | None = None
        self._bar = ExitStack()
        self._report: Callable[[int, int], None] = _silent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def report(self, what: str, done: int, total: int) -> None:
        """`what` is being done, `done` of `total` bytes of it."""
        if what != self._what:
            self.close()
            self._what = what
            self._report = self._bar.enter_context(progress(what, quiet=self._quiet))
        self._report(done, total)

    def say(self, words: str) -> None:
        """A line for people, between the bars."""
        self.close()
        if not self._quiet:
            click.echo(words, err=True)

    def close(self) -> None:
        """Take the bar away, for words or for good."""
        self._bar.close()
        self._what = None


def _silent(_done: int, _total: int) -> None:
    """Nobody watches."""


@contextmanager
def _bar(label: str, *, unit_bytes: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console  # noqa: PLC0415 - only terminals pay for it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    counter = DownloadColumn() if unit_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counter, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _plain(label: str, *, unit_bytes: bool) -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_LINE_EVERY_S:
            last = now
            share = f"{100 * done // total} %" if total else ""
            count = (
                f"{megabytes(done)} of {megabytes(total)}" if unit_bytes else f"{done} of {total}"
            )
            click.echo(f"{label}: {count} {share}".rstrip(), err=True)

    return report


def megabytes(size: int) -> str:
    """`size` bytes for people, in decimal units: 999 B, 12.3 kB, 4.6 MB, 1.26 GB."""
    for limit, divisor, unit in ((1000, 1, "B"), (10**6, 10**3, "kB"), (10**9, 10**6, "MB")):
        if size < limit:
            return f"{size} B" if divisor == 1 else f"{size / divisor:.1f} {unit}"
    return f"{size / 10**9:.2f} GB"
