"""The story: publish two releases, install, update by delta through a kill, confirm, fall back.

Every step is the slipstream command as its user would type it, run as a process of its own. Where
the releases are there as squashfs too, the update is told once more with those: what a delta of
compressed images costs stands beside what one of the same trees costs without compression.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from slipstream.demo.fleet import Fleet
from slipstream.demo.only_one import only_one
from slipstream.demo.owner import Owner
from slipstream.demo.releases import DemoRelease, DemoReleases
from slipstream.demo.table import Row, table_of

Say = Callable[[str], None]


def tell(folder: Path, releases: DemoReleases, say: Say) -> list[Row]:
    """All of it, in a folder that is emptied first. Returns the rows of the table at the end.

    Raises Busy if another demonstration runs there, and SlipstreamError at the first thing that
    is not as it must be.
    """
    with only_one(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return _tell(folder, releases, say)


def _tell(folder: Path, releases: DemoReleases, say: Say) -> list[Row]:
    rows: list[Row] = []
    first, second, broken = releases.first, releases.second, releases.broken
    with Fleet(folder, say) as fleet:
        owner = _update(fleet, first, second, releases.kind, rows)

        _chapter(say, "Release 3 is broken: the device falls back to release 2 and says why")
        fleet.publish(broken, second)
        owner.install(broken, f"broken update 2 -> 3{releases.kind}")
        owner.boot(broken, "The device boots into the trial of release 3")
        owner.fail_health()
        owner.boot(second, "Release 3 is condemned: the boot loader starts release 2")
        owner.report_fall_back()

    if releases.squashfs is not None:
        _chapter(say, "The same trees as squashfs: another product, another device")
        with Fleet(folder / "squashfs", say) as fleet:
            _update(fleet, *releases.squashfs, ", squashfs", rows)

    _chapter(say, "What it took")
    say(table_of(rows))
    return rows


def _update(
    fleet: Fleet, first: DemoRelease, second: DemoRelease, kind: str, rows: list[Row]
) -> Owner:
    """The main job: from two images to a device that runs the second and has confirmed it."""
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

    _chapter(say, "The device updates to release 2 by delta, and is killed on the way")
    owner.install(second, f"update 1 -> 2{kind}", kill=True)
    owner.boot(second, "The new entry sorts first: the device boots into the trial")
    owner.confirm()
    return owner


def _chapter(say: Say, text: str) -> None:
    say(f"\n=== {text}")
