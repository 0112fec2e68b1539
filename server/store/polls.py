"""What polls said of devices, written in batches: no poll waits for it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.store.devices import Device
from slipstream.server.store.dialect import ROWS_AT_ONCE
from slipstream.server.store.tables import devices


@dataclass(frozen=True, slots=True)
class Seen:
    """What one poll said; written in batches."""

    device: str
    seen_at: int
    hardware: str | None
    release: str | None
    counter: int | None
    booted_root: str | None
    trial: bool
    slots: str  # JSON


async def write(connection: AsyncConnection, polls: Iterable[Seen]) -> None:
    """Write what polls said; removed devices are passed over, and those that said more since.

    A server that could not write for a while may come behind another that heard the device later.
    """
    rows = [
        {("of_device" if key == "device" else key): value for key, value in asdict(one).items()}
        for one in sorted(polls, key=lambda one: one.device)
    ]
    if not rows:
        return
    names = [name for name in Seen.__dataclass_fields__ if name != "device"]
    statement = (
        sa.update(devices)
        .where(devices.c.id == sa.bindparam("of_device"), _not_after(sa.bindparam("seen_at")))
        .values({name: sa.bindparam(name) for name in names})
    )
    await connection.execute(statement, rows)


async def touch(connection: AsyncConnection, seen: Mapping[str, int]) -> None:
    """Write when devices were last heard of, by id, for those whose polls say nothing else.

    One statement for many devices of one second: it takes the interpreter from the polls beside
    it once, where a row for each device takes it every time.
    """
    by_second: dict[int, list[str]] = {}
    for device, at in seen.items():
        by_second.setdefault(at, []).append(device)
    for at, ids in by_second.items():
        for start in range(0, len(ids), ROWS_AT_ONCE):
            some = ids[start : start + ROWS_AT_ONCE]
            await connection.execute(
                sa.update(devices)
                .where(devices.c.id.in_(some), _not_after(sa.literal(at)))
                .values(seen_at=at)
            )


async def note_release(
    connection: AsyncConnection,
    device: str,
    release: str,
    counter: int | None,
    booted_root: str | None,
) -> None:
    """Write which release a device runs, where it does not say so in every poll."""
    await connection.execute(
        sa.update(devices)
        .where(devices.c.id == device)
        .values(release=release, counter=counter, booted_root=booted_root, trial=False)
    )


def is_news(device: Device, seen: Seen) -> bool:
    """Whether a poll says more than that the device is there."""
    return (
        device.release != seen.release
        or device.counter != seen.counter
        or device.booted_root != seen.booted_root
        or device.slots != seen.slots
        or device.trial is None
        or device.trial != seen.trial
        or device.hardware != seen.hardware
    )


def after_poll(device: Device, seen: Seen) -> Device:
    """The device as its poll says it is, before that is written."""
    return replace(
        device,
        seen_at=seen.seen_at,
        hardware=seen.hardware,
        release=seen.release,
        counter=seen.counter,
        booted_root=seen.booted_root,
        trial=seen.trial,
        slots=seen.slots,
    )


def _not_after(at: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.or_(devices.c.seen_at.is_(None), devices.c.seen_at <= at)
