"""GET /releases: what is published, and from where to where there is a delta."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from aiohttp import web

from slipstream.server.catalog import Release
from slipstream.server.pages.desk import Desk
from slipstream.server.pages.visitor import Visitor
from slipstream.server.pages.words import Mark, share_words
from slipstream.server.store import delta_jobs
from slipstream.server.store.delta_jobs import Job, JobState

_JOBS_MAX = 500
_LATEST = 8  # rows and columns of the matrix: what still matters fits a screen


@dataclass(frozen=True, slots=True)
class Cell:
    """From a source release to a target release."""

    state: str  # "delta", "partial", "full", "same", "back"
    mark: Mark
    size: int | None  # bytes that a device fetches; None: nothing is offered
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """A source release of the matrix: how many devices run it, and a cell for each target."""

    source: str
    counter: int
    devices: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The releases of a product's channel: sources by targets, the newest first."""

    product: str
    channel: str
    targets: tuple[tuple[str, int | None], ...]  # name, bytes of all full payloads
    lines: tuple[Line, ...]
    more: int  # older releases that are left out


@dataclass(frozen=True, slots=True)
class ReleasesHandler:
    """Answers GET /releases."""

    desk: Desk

    def routes(self) -> list[web.RouteDef]:
        return [self.desk.get("/releases", self._show)]

    async def _show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        async with self.desk.database.reading() as connection:
            counts = await delta_jobs.census(connection)
            found = await delta_jobs.list_all(connection, limit=_JOBS_MAX)
        catalog, trouble = await self.desk.catalog_or_trouble()
        releases = catalog.releases if catalog else ()
        runs: dict[tuple[str, str], int] = {}
        for (product, _, release), number in counts.items():
            runs[product, release] = runs.get((product, release), 0) + number
        jobs = {(one.product, one.source, one.target): one for one in found}
        lines = sorted({(one.product, one.channel) for one in releases})
        return self.desk.render(
            request,
            visitor,
            "releases.html",
            live="fleet",
            trouble=trouble,
            expires=catalog.expires if catalog else None,
            matrices=[make_matrix(*line, releases, counts, jobs) for line in lines],
            releases=[
                (one, full_size(one), runs.get((one.product, one.release), 0)) for one in releases
            ],
        )


def make_matrix(
    product: str,
    channel: str,
    releases: Sequence[Release],
    devices: Mapping[tuple[str, str, str], int],
    jobs: Mapping[tuple[str, str, str], Job],
) -> Matrix:
    """The matrix of a line: `devices` by (product, channel, release), `jobs` by (product, source,
    target).

    Sources are the line's own releases, and others of the product that its devices run: a device
    may have come from another channel.
    """
    own = [one for one in releases if (one.product, one.channel) == (product, channel)]
    found = [
        one
        for one in releases
        if one in own or (one.product == product and (product, channel, one.release) in devices)
    ]
    shown = found[:_LATEST]
    targets = [one for one in shown if one in own and one is not found[-1]] or own[:1]
    return Matrix(
        product,
        channel,
        tuple((one.release, full_size(one)) for one in targets),
        tuple(_line(product, channel, one, targets, devices, jobs) for one in shown),
        len(found) - len(shown),
    )


def _line(
    product: str,
    channel: str,
    source: Release,
    targets: Sequence[Release],
    devices: Mapping[tuple[str, str, str], int],
    jobs: Mapping[tuple[str, str, str], Job],
) -> Line:
    number = devices.get((product, channel, source.release), 0)
    cells = tuple(
        make_cell(source, one, number, jobs.get((product, source.release, one.release)))
        for one in targets
    )
    return Line(source.release, source.counter, number, cells)


def make_cell(source: Release, target: Release, devices: int, job: Job | None = None) -> Cell:
    """What a device on `source` fetches for `target`: a delta, the full payloads, or some of each.

    An image that both releases share by its root hash costs nothing. `devices` run the source; `job` builds the delta.
    """
    if source.release == target.release:
        return Cell("same", Mark.NONE, None, "the same release")
    if source.counter > target.counter:
        return Cell("back", Mark.NONE, None, "older than the source: not offered")
    whole = full_size(target)
    deltas = {
        one.image: one.payload_bytes
        for one in target.deltas
        if one.source_release == source.release
    }
    roots = {one.image: one.root for one in source.images}
    total = 0
    by_delta = 0
    for image in target.images:
        if roots.get(image.image) == image.root:
            by_delta += 1
        elif image.image in deltas:
            by_delta += 1
            total += deltas[image.image]
        elif image.payload_bytes is not None:
            total += image.payload_bytes
        else:
            return Cell("missing", Mark.BAD, None, "a payload is missing")
    if by_delta == len(target.images) and target.images:
        return Cell("delta", Mark.GOOD, total, f"delta, {share_words(total, whole or total)}")
    if by_delta:
        return Cell("partial", Mark.GOING, total, "some images in full")
    words, mark = _without(job, devices)
    return Cell("full", mark, total, words)


def _without(job: Job | None, devices: int) -> tuple[str, Mark]:
    """Why there is no delta, or not yet."""
    if job is None or job.state is JobState.DONE:
        return "in full", Mark.WARN if devices else Mark.NONE
    match job.state:
        case JobState.QUEUED:
            words = f": {job.reason}" if job.reason else ""
            return f"in full; a delta waits to be built{words}", Mark.GOING
        case JobState.RUNNING:
            return f"in full; a delta is being built, {job.progress} %", Mark.GOING
        case JobState.USELESS:
            return "in full: a delta is no smaller", Mark.NONE
        case JobState.FAILED:
            return f"in full; the delta failed: {job.reason}", Mark.BAD
        case _:
            assert_never(job.state)


def full_size(release: Release) -> int | None:
    """Bytes of all full payloads; None where one is missing."""
    sizes = [one.payload_bytes for one in release.images]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
