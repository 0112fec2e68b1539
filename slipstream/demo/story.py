"""The story: publish two releases, install, roll the second out, update by delta through a kill,
confirm, fall back.

Every step is the slipstream command as its user would type it, run as a process of its own. Where
the releases are there as squashfs too, the update is told once more with those: what a delta of
compressed images costs stands beside what one of the same trees costs without compression.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from slipstream.demo.fleet import Fleet
from slipstream.demo.neighbours import Neighbour
from slipstream.demo.only_one import only_one
from slipstream.demo.owner import Owner
from slipstream.demo.releases import DemoRelease, DemoReleases
from slipstream.demo.table import Row, table_of

Say = Callable[[str], None]
CANARIES, OTHERS = 2, 3  # simulated devices beside the one with a disk


def tell(folder: Path, releases: DemoReleases, say: Say, *, serve_s: float = 0.0) -> list[Row]:
    """All of it, in a folder that is emptied first. Returns the rows of the table at the end.

    The last thing said is the address of the rollout's page; for `serve_s` seconds, or until Ctrl-C,
    the server goes on, so that it can be looked at.

    Raises Busy if another demonstration runs there, and SlipstreamError at the first thing that
    is not as it must be.
    """
    with only_one(folder):
        shutil.rmtree(folder, ignore_errors=True)
        with Fleet(folder, say) as fleet:
            rows = _tell(fleet, releases)
            fleet.show_page(serve_s)
        return rows


def _tell(fleet: Fleet, releases: DemoReleases) -> list[Row]:
    rows: list[Row] = []
    say = fleet.say
    first, second, broken = releases.first, releases.second, releases.broken
    owner = _begin(fleet, first, second, releases.kind, rows)
    others = _open(fleet, first, second)
    owner.expect_offer()
    _update(owner, second, releases.kind)
    _finish(fleet, first, second, others)

    _chapter(say, "Release 3 is broken: the device falls back to release 2 and says why")
    fleet.publish(broken, second)
    owner.install(broken, f"broken update 2 -> 3{releases.kind}")
    owner.boot(broken, "The device boots into the trial of release 3")
    owner.fail_health()
    owner.boot(second, "Release 3 is condemned: the boot loader starts release 2")
    owner.report_fall_back()

    if releases.squashfs is not None:
        _chapter(say, "The same trees as squashfs: another product, another device")
        with Fleet(fleet.folder / "squashfs", say) as packed:
            owner = _begin(packed, *releases.squashfs, ", squashfs", rows)
            _update(owner, releases.squashfs[1], ", squashfs")

    _chapter(say, "What it took")
    say(table_of(rows))
    return rows


def _begin(
    fleet: Fleet, first: DemoRelease, second: DemoRelease, kind: str, rows: list[Row]
) -> Owner:
    """From two images to a device that runs the first and has confirmed it."""
    say = fleet.say
    _chapter(say, "The build machine publishes two releases")
    fleet.make_repo()
    fleet.publish(first)
    fleet.publish(second, first)

    _chapter(say, "The server offers them; a factory-new device installs release 1")
    image_bytes = max(release.image.stat().st_size for release in (first, second))
    owner = Owner(fleet.start(image_bytes), fleet, rows)
    owner.install(first, f"install 1{kind}")
    owner.boot(first, "The boot loader finds one entry, counts a try, and starts it")
    owner.confirm()
    return owner


def _update(owner: Owner, second: DemoRelease, kind: str) -> None:
    """The main job: to release 2 by delta, through a kill."""
    _chapter(owner.fleet.say, "The device updates to release 2 by delta, and is killed on the way")
    owner.install(second, f"update 1 -> 2{kind}", kill=True)
    owner.boot(second, "The new entry sorts first: the device boots into the trial")
    owner.confirm()


def _open(fleet: Fleet, first: DemoRelease, second: DemoRelease) -> list[Neighbour]:
    """The first phase, up to the second one's begin; who is left for that."""
    say = fleet.say
    _chapter(say, "Release 2 is rolled out in two phases: canaries first, then everybody")
    neighbours = fleet.add_neighbours(CANARIES, OTHERS)
    old, new = fleet.running(first), fleet.running(second)
    for one in neighbours:
        one.ask(old)
    fleet.roll_out(second)
    fleet.await_phase(1)
    canaries, others = neighbours[:CANARIES], neighbours[CANARIES:]
    say("")
    for one in others:
        say(f"  {one.id} polls, and hears: {one.ask(old).reason}")
    for one in canaries:
        one.update(old, new)
        say(f"  {one.id}, a canary, is offered release 2, boots it, and confirms it")
    fleet.await_phase(2)
    fleet.show_rollout()
    return others


def _finish(fleet: Fleet, first: DemoRelease, second: DemoRelease, others: list[Neighbour]) -> None:
    """The second phase: the rest of the fleet; one of it falls back."""
    say = fleet.say
    _chapter(say, "The rest of the fleet follows; on one device release 2 does not start")
    old, new = fleet.running(first), fleet.running(second)
    *well, bad = others
    for one in well:
        one.update(old, new)
        say(f"  {one.id} confirms release 2")
    bad.fail(old, new)
    say(f"  {bad.id} falls back to release 1, and hears: {bad.ask(old).reason}")
    fleet.await_end()
    fleet.show_rollout()
    fleet.show_devices()


def _chapter(say: Say, text: str) -> None:
    say(f"\n=== {text}")
