"""A synthetic fleet for the pages: 10,000 devices, six releases, rollouts in every state.

Written straight into the tables, with the engine's own phases: nothing here is offered or judged,
but a server that opens the database finds rollouts that it can go on with.
"""

import asyncio
import hashlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import Opening, open_phase, phase_of
from slipstream.server.rollout.plan import AbortRule, FailureClass, Phase, Plan
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.track import State, class_of
from slipstream.server.serve import serve
from slipstream.server.store import audit, devices, rollouts, tables
from slipstream.server.store.database import Database
from slipstream.server.tokens import hash_token
from tests.server.conftest import Folder

RELEASES = ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5")
COUNTER = {name: number for number, name in enumerate(RELEASES, 1)}
ROOT = {name: hashlib.sha256(name.encode()).hexdigest() for name in RELEASES}
SHARES = {"2.3": 0.62, "2.2": 0.2, "2.1": 0.09, "2.0": 0.06, "": 0.03}
SITES = ("berlin", "lyon", "porto", "turin", "oslo", "graz")
FULL_BYTES = 182_000_000
SHOWN = "door-00042"  # the device whose page is looked at
TOKEN = "a device's token for the tests"
_WHY = {
    FailureClass.FETCH: "connection reset 14 times in a row",
    FailureClass.DEVICE: "mmcblk0p3: write error at 0x3a1000",
    FailureClass.REJECTED: "the manifest wants 96 MiB of memory, 64 MiB are configured",
    FailureClass.BOOT: "health check dbus-ready failed: exit code 1 after 60 s",
    FailureClass.REGRESSED: "watchdog reset, then the boot loader ran out of tries",
    FailureClass.SILENT: "nothing was heard",
}
_STATE = {
    FailureClass.FETCH: State.FAILED,
    FailureClass.DEVICE: State.FAILED,
    FailureClass.REJECTED: State.FAILED,
    FailureClass.BOOT: State.FELL_BACK,
    FailureClass.REGRESSED: State.REGRESSED,
    FailureClass.SILENT: State.SILENT,
}


AUDIT = (
    (
        5_184_000,
        "mara",
        "rollout.create",
        "rollout 1 spring 2.2",
        "",
        '{"release":"2.2","phases":2}',
    ),
    (
        5_180_000,
        "ben",
        "rollout.approve",
        "rollout 1 spring 2.2",
        '{"status":"waiting_for_approval"}',
        '{"status":"scheduled","reason":"approved by ben: ran on the bench for a week"}',
    ),
    (
        2_592_000,
        "mara",
        "rollout.create",
        "rollout 2 summer 2.3 first try",
        "",
        '{"release":"2.3","phases":2}',
    ),
    (
        2_500_000,
        "installation",
        "rollout.abort",
        "rollout 2 summer 2.3 first try",
        '{"status":"running","phase":1}',
        '{"status":"aborted","reason":"the camera driver is missing"}',
    ),
    (
        400_000,
        "mara",
        "device.describe",
        "device door-00042",
        '{"tags":["canary"]}',
        '{"tags":["canary","lab"]}',
    ),
    (
        345_600,
        "mara",
        "rollout.create",
        "rollout 3 autumn 2.4",
        "",
        '{"release":"2.4","phases":4,"stratify_by":"attribute.site"}',
    ),
    (
        2400,
        "mara",
        "rollout.create",
        "rollout 6 canaries 2.4",
        "",
        '{"release":"2.4","filter":"tag==canary","needs_approval":true}',
    ),
)


@dataclass
class Story:
    """A rollout and what became of it: for each open phase, failures and offers on their way."""

    plan: Plan
    status: Status
    reason: str = ""
    phases: Sequence[tuple[dict[FailureClass, int], int, float]] = ()  # ..., share offered
    age_s: int = 86_400
    told: Sequence[tuple[int, str, str]] = field(default_factory=tuple)  # seconds ago, kind, text


def publish(folder: Folder) -> None:
    """Six releases with full payloads, and the deltas that somebody built."""
    for name in RELEASES:
        folder.release(name, COUNTER[name], channel="edge" if name == "2.5" else "stable")
        index = folder.full(name, "rootfs", ROOT[name], name.encode())
        payload = folder.public / "blobs" / f"{index}.payload"
        with payload.open("r+b") as file:
            file.truncate(FULL_BYTES + 400_000 * COUNTER[name])  # sparse: only its size is shown
    for source, target, size in (
        ("2.0", "2.1", 21_400_000),
        ("2.1", "2.2", 14_800_000),
        ("2.1", "2.3", 25_300_000),
        ("2.2", "2.3", 12_100_000),
        ("2.2", "2.4", 19_700_000),
        ("2.3", "2.4", 9_300_000),
    ):
        folder.delta(target, "rootfs", ROOT[source], ROOT[target], size)
    folder.write()


def fleet(now: int, number: int) -> list[dict[str, Any]]:
    """Rows of `devices`."""
    random = Random(1)
    names = random.choices(list(SHARES), list(SHARES.values()), k=number)
    rows = []
    for index, release in enumerate(names):
        gone = random.random()
        seen = now - random.randrange(300) if gone < 0.955 else now - random.randrange(900, 400_000)
        rows.append(
            {
                "id": f"door-{index:05}",
                "product": "gateway",
                "channel": "edge" if index % 16 == 5 else "stable",
                "token_digest": hash_token(f"{TOKEN} {index}"),
                "created_at": now - 90 * 86_400,
                "seen_at": seen if release else None,
                "hardware": "gw-imx8" if index % 3 else "gw-cm4",
                "release": release or None,
                "counter": COUNTER[release] if release else None,
                "booted_root": ROOT[release] if release else None,
                "trial": False,
                "slots": msgspec.json.encode(
                    [
                        {"name": "a", "release": release, "state": "good"},
                        {
                            "name": "b",
                            "release": RELEASES[max(0, COUNTER[release] - 2)],
                            "state": "good",
                        },
                    ]
                ).decode()
                if release
                else None,
                "group_name": f"floor {index % 7}",
                "tags": '["canary"]' if index % 50 == 0 else "[]",
                "attributes": f'{{"site": "{SITES[index % len(SITES)]}"}}',
            }
        )
    return rows


def stories(now: int) -> list[Story]:
    """Rollouts, the oldest first."""
    phases = (
        Phase(percent=1, soak_s=7200),
        Phase(percent=10, soak_s=43_200),
        Phase(percent=50, soak_s=43_200),
        Phase(percent=100),
    )
    kind = FailureClass

    def plan(name: str, release: str, **more: Any) -> Plan:
        given = {"phases": phases, "channel": "stable", **more}
        return Plan(
            name=name, product="gateway", release=release, counter=COUNTER[release], **given
        )

    few = (Phase(count=20), Phase(count=200))
    return [
        Story(
            plan("spring 2.2", "2.2", phases=few),
            Status.FINISHED,
            "phase 2: 178 of 180 confirmed",
            [({}, 0, 1.0), ({kind.FETCH: 2}, 0, 1.0)],
            60 * 86_400,
        ),
        Story(
            plan("summer 2.3 first try", "2.3", phases=few),
            Status.ABORTED,
            "aborted by installation: the camera driver is missing",
            [({kind.BOOT: 6, kind.SILENT: 1}, 2, 1.0)],
            30 * 86_400,
        ),
        Story(
            plan("autumn 2.4", "2.4", stratify_by="attribute.site"),
            Status.RUNNING,
            "phase 1: 88 of 91 confirmed",
            [
                ({kind.REGRESSED: 2}, 0, 1.0),
                ({kind.FETCH: 7, kind.BOOT: 4, kind.DEVICE: 2, kind.REJECTED: 1}, 61, 0.83),
            ],
            4 * 86_400,
            [
                (4 * 86_400, "rollout", "created by installation: 2.4"),
                (4 * 86_400 - 60, "phase", "phase 1 (1 %) opened for 91 devices: started"),
                (
                    14_400,
                    "phase",
                    "phase 2 (10 %) opened for 817 devices: phase 1: 88 of 91 confirmed",
                ),
            ],
        ),
        Story(
            plan(
                "edge 2.5",
                "2.5",
                channel="edge",
                phases=(Phase(count=60, soak_s=3600), Phase(percent=100)),
                abort=(AbortRule(percent=5, min_sample=20),),
            ),
            Status.PAUSED,
            "phase 1: 4 failed of 41, at most 5 % may",
            [({kind.BOOT: 4}, 12, 0.9)],
            7200,
            [
                (7200, "phase", "phase 1 (60 devices) opened for 60 devices: started"),
                (1500, "rollout", "paused: phase 1: 4 failed of 41, at most 5 % may"),
            ],
        ),
        Story(
            plan(
                "winter 2.4 for Oslo", "2.4", filter="attribute.site==oslo", start_at=now + 50_000
            ),
            Status.SCHEDULED,
            age_s=3000,
        ),
        Story(
            plan("canaries 2.4", "2.4", filter="tag==canary", needs_approval=True),
            Status.WAITING,
            age_s=2400,
        ),
    ]


async def fill(database: Database, now: int, number: int = 10_000) -> None:
    """Write it all into an empty database."""
    rows = fleet(now, number)
    told = stories(now)

    async def act(connection: AsyncConnection) -> None:
        await connection.execute(sa.insert(tables.devices), rows)
        facts = [
            one
            for channel in ("stable", "edge")
            async for page in devices.facts_of_channel(connection, "gateway", channel)
            for one in page
        ]
        for story in told:
            await _tell(connection, story, facts, now)
        await connection.execute(sa.insert(tables.census), list(history(now, number)))
        await _device(connection, now)
        await rollouts.sign(connection, 1, "ben", "ran on the bench for a week")
        for ago, who, act, thing, before, after in AUDIT:
            await audit.append(connection, now - ago, who, act, thing, before, after)
        for source, state, progress in (("2.1", "running", 41), ("2.0", "queued", 0)):
            await connection.execute(
                sa.insert(tables.delta_jobs).values(
                    product="gateway",
                    source=source,
                    target="2.4",
                    state=state,
                    saving_bytes=10**9,
                    tries=1,
                    token=1,
                    lease_until=now + 10**6,
                    progress=progress,
                    reason="",
                    created_at=now,
                    changed_at=now,
                )
            )

    await database.write(act)


def history(now: int, number: int) -> Iterator[dict[str, Any]]:
    """A week in which 2.3 took the place of 2.2, and 2.4 began."""
    first = now - now % 3600 - 7 * 86_400
    for hour in range(7 * 24):
        spread = 1 / (1 + math.exp(-(hour - 60) / 14))
        shares = {
            "2.4": max(0, hour - 72) / 96 * 0.07,
            "2.3": 0.05 + 0.57 * spread - max(0, hour - 72) / 96 * 0.07,
            "2.2": 0.73 - 0.53 * spread,
            "2.1": 0.12 - 0.03 * spread,
            "": 0.03,
            "2.0": 0.06,
        }
        for name, share in shares.items():
            if share > 0:
                yield {
                    "hour": first + 3600 * hour,
                    "product": "gateway",
                    "release": name,
                    "devices": round(share * number),
                }


async def _tell(
    connection: AsyncConnection, story: Story, fleet: Sequence[Facts], now: int
) -> None:
    plan, random = story.plan, Random(story.plan.name)
    made = await rollouts.create(connection, plan, story.status, now - story.age_s, author="mara")
    assert made is not None
    await connection.execute(
        sa.update(tables.rollouts).where(tables.rollouts.c.id == made).values(reason=story.reason)
    )
    line = [one for one in fleet if one.channel == plan.channel and one.release]
    population = [
        one
        for one in line
        if (one.counter or 0) < plan.counter
        and ("oslo" not in plan.filter or one.attributes["site"] == "oslo")
    ]
    opened: list[Opening] = []
    for index, (failures, in_flight, share) in enumerate(story.phases):
        opening = open_phase(plan, opened, population)
        before, opened = opened, [*opened, opening]
        members = [
            one
            for one in population
            if phase_of(plan, opened, one) == index and phase_of(plan, before, one) is None
        ]
        offered = members[: math.ceil(share * len(members))]
        age = story.age_s if index == 0 else min(story.age_s, 14_400)
        await connection.execute(
            sa.insert(tables.phases).values(
                rollout=made,
                phase=index,
                opened_at=now - age,
                members=opening.members,
                limit=opening.limit,
                cuts=msgspec.json.encode({k: str(v) for k, v in opening.cuts.items()}).decode(),
                everyone=opening.everyone,
                offered=len(offered),
                proved=index < len(story.phases) - 1,
                soaked_s=plan.phases[index].soak_s if index < len(story.phases) - 1 else 0,
                forgiven="{}",
            )
        )
        ends: list[tuple[State, FailureClass | None]] = [
            (_STATE[kind], kind) for kind, many in failures.items() for _ in range(many)
        ]
        ways = (State.OFFERED, State.FETCHING, State.INSTALLED)
        ends += [(ways[number % 3], None) for number in range(in_flight)]
        ends += [(State.CONFIRMED, None)] * (len(offered) - len(ends))
        attempts = []
        for device, (state, kind) in zip(offered, ends, strict=False):
            at = now - random.randrange(60, max(61, age))
            attempts.append(
                {
                    "rollout": made,
                    "device": device.id,
                    "phase": index,
                    "release": plan.release,
                    "state": state.value,
                    "failure": class_of(state, kind),
                    "reason": _WHY[kind] if kind else "",
                    "offered_at": at - 600,
                    "changed_at": at,
                    "source": device.release,
                    "fetched_bytes": 7_300_000 if state is State.CONFIRMED else None,
                    "full_bytes": 133_200_000 if state is State.CONFIRMED else None,
                }
            )
        await connection.execute(sa.insert(tables.attempts), attempts)
        runs = [one["device"] for one in attempts if one["state"] == "confirmed"]
        if runs and story.status not in {Status.FINISHED, Status.ABORTED}:
            await connection.execute(
                sa.update(tables.devices)
                .where(tables.devices.c.id.in_(runs))
                .values(release=plan.release, counter=plan.counter, booted_root=ROOT[plan.release])
            )
        kept = [
            {
                "device": one["device"],
                "release": plan.release,
                "reason": one["reason"],
                "since": now,
            }
            for one in attempts
            if one["state"] in {"fell_back", "regressed"}
        ]
        if kept:
            await connection.execute(sa.insert(tables.quarantines), kept)
    for ago, kind, text in story.told:
        await connection.execute(
            sa.insert(tables.events).values(at=now - ago, kind=kind, rollout=made, text=text)
        )


async def _device(connection: AsyncConnection, now: int) -> None:
    """What is seen on the page of one device: it fell back from 2.4."""
    await connection.execute(
        sa.update(tables.devices)
        .where(tables.devices.c.id == SHOWN)
        .values(
            release="2.3",
            counter=4,
            booted_root=ROOT["2.3"],
            seen_at=now - 40,
            slots='[{"name":"a","release":"2.3","state":"good"},{"name":"b","release":"2.4","state":"bad"}]',
            tags='["canary","lab"]',
        )
    )
    why = _WHY[FailureClass.BOOT]
    await connection.execute(sa.delete(tables.attempts).where(tables.attempts.c.device == SHOWN))
    # It takes the place of another one in its phase.
    other = sa.select(sa.func.max(tables.attempts.c.id)).where(
        tables.attempts.c.rollout == 3,
        tables.attempts.c.phase == 0,
        tables.attempts.c.state == "confirmed",
    )
    await connection.execute(
        sa.delete(tables.attempts).where(tables.attempts.c.id == other.scalar_subquery())
    )
    await connection.execute(
        sa.delete(tables.quarantines).where(tables.quarantines.c.device == SHOWN)
    )
    await connection.execute(
        sa.insert(tables.quarantines).values(
            device=SHOWN, release="2.4", reason=why, since=now - 5000
        )
    )
    for key, (ago, kind, release, reason, details) in enumerate(
        (
            (2_600_000, "installed", "2.3", "", {"seconds": 412, "profile": "balanced"}),
            (2_599_000, "confirmed", "2.3", "", {}),
            (8000, "progress", "2.4", "", {"waits_for": "window", "until": "02:00 UTC"}),
            (6000, "installed", "2.4", "", {"seconds": 388, "profile": "balanced"}),
            (5000, "fell_back", "2.4", why, {"tries": 3}),
        )
    ):
        await connection.execute(
            sa.insert(tables.reports).values(
                device=SHOWN,
                key=f"k{key}",
                kind=kind,
                release=release,
                counter=COUNTER[release],
                booted_root=ROOT["2.3" if kind == "fell_back" else release],
                reason=reason,
                details=msgspec.json.encode(details).decode(),
                at=now - ago,
                received_at=now - ago,
            )
        )
    await connection.execute(
        sa.insert(tables.attempts).values(
            rollout=3,
            device=SHOWN,
            phase=0,
            release="2.4",
            state="fell_back",
            failure="boot",
            reason=why,
            offered_at=now - 9000,
            changed_at=now - 5000,
            source="2.3",
        )
    )
    for ago, kind, text in (
        (9000, "offered", "offered 2.4, phase 1"),
        (6000, "installed", "2.4 installed"),
        (5000, "fell_back", f"2.4 fell back: {why}"),
    ):
        await connection.execute(
            sa.insert(tables.events).values(
                at=now - ago, kind=kind, device=SHOWN, rollout=3, text=text
            )
        )


def make(repo: Path, number: int = 10_000) -> str:
    """A repository folder with the fleet in its database, ready to be served: the database's URL."""
    public = repo / "public"
    for name in ("metadata", "targets", "blobs"):
        (public / name).mkdir(parents=True)
    publish(Folder(public))
    (repo / "server").mkdir(mode=0o700)
    url = f"sqlite+aiosqlite:///{repo / 'server' / 'fleet.sqlite'}"

    async def main() -> None:
        database = await Database.open(url)
        try:
            await fill(database, int(time.time()), number)
        finally:
            await database.close()

    asyncio.run(main())
    return url


if __name__ == "__main__":  # FOLDER HOST:PORT: the fleet made, if it is not there, and served
    folder = Path(sys.argv[1])
    if not (folder / "public").exists():
        make(folder)
    serve(folder / "public", listen=sys.argv[2], on_ready=lambda url: print(url, flush=True))
