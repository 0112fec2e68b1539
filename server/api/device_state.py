"""Devices and their reports as the calls show them."""

from typing import Any

import msgspec

from slipstream.server.rollout.facts import Facts
from slipstream.server.store.devices import Device
from slipstream.server.store.reports import Report


class ShownDevice(msgspec.Struct, frozen=True):
    """A device: what it was registered as, what its last poll said, what operators say of it."""

    id: str
    product: str
    channel: str
    created_at: int
    seen_at: int | None
    hardware: str | None
    release: str | None
    counter: int | None
    booted_root: str | None
    trial: bool | None
    slots: list[dict[str, Any]]
    group: str | None
    tags: tuple[str, ...]
    attributes: dict[str, str]


class ShownReport(msgspec.Struct, frozen=True):
    """What a device reported; `at` is its own clock."""

    key: str
    kind: str
    release: str | None
    counter: int | None
    booted_root: str | None
    reason: str
    details: dict[str, Any]
    at: int
    received_at: int


def shown_device(device: Device) -> ShownDevice:
    """A device as the calls show it."""
    facts: Facts = device.facts()
    return ShownDevice(
        id=device.id,
        product=device.product,
        channel=device.channel,
        created_at=device.created_at,
        seen_at=device.seen_at,
        hardware=device.hardware,
        release=device.release,
        counter=device.counter,
        booted_root=device.booted_root,
        trial=device.trial,
        slots=msgspec.json.decode(device.slots or "[]", type=list[dict[str, Any]]),
        group=device.group_name,
        tags=tuple(sorted(facts.tags)),
        attributes=dict(facts.attributes),
    )


def shown_report(report: Report) -> ShownReport:
    """A report as the calls show it."""
    details = msgspec.json.decode(report.details, type=dict[str, Any])
    return ShownReport(
        key=report.key,
        kind=report.kind,
        release=report.release,
        counter=report.counter,
        booted_root=report.booted_root,
        reason=report.reason,
        details=details,
        at=report.at,
        received_at=report.received_at,
    )
