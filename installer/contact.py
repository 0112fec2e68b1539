"""Contact with the server: what this device tells it, and what it wants of this device.

A device without a token has a static repository and no contact: nothing is told, and its newest
release is wanted. What is wanted is never trusted: only signed metadata decides what may run.
"""

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from slipstream.delta.errors import Rejected, Unavailable, UsageError
from slipstream.delta.limits import FAILED_REASON_CHARS_MAX
from slipstream.installer import poll
from slipstream.installer.device import Device
from slipstream.installer.ports import EntryState
from slipstream.installer.slots import Report

TOKEN_BYTES_MAX = 4096

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server wants of this device.

    `install` false: stay as you are, for `reason`. `release` None: the newest on offer.
    `interval_s`: when to ask again, None if it does not say. `forced`: the device's own windows do
    not hold it. `download_only`: written into the slot, and not booted until the server says so.
    """

    install: bool
    release: str | None = None
    counter: int | None = None
    reason: str = ""
    interval_s: float | None = None
    forced: bool = False
    download_only: bool = False


Look = Callable[[Device], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Contact:
    """A device and its server, or None; then `look` says what the repository has, if it is there."""

    device: Device
    server: poll.Server | None
    look: Look | None = None

    async def deliver(self, say: Say) -> None:
        """Send the reports that wait, oldest first; each is kept until the server has it.

        Without a server none are queued (reports.py).
        """
        if self.server is None:
            return
        for report in self.device.slots.reports():
            try:
                await self.server.report(wire_report(self.device, report))
            except Unavailable as error:
                say(f"reports wait: {error}")
                return
            except Rejected as error:
                # Kept: an operator may mend the token. The others go their way.
                say(f"report {report.key} was refused: {error}")
            else:
                self.device.slots.delivered(report.key)

    async def ask(self) -> Answer:
        """What to install: without a look at a static repository, whatever it has.

        Raises Unavailable, Rejected for a token the server refuses, and as a look does.
        """
        if self.server is None:
            return Answer(install=True) if self.look is None else await self.look(self.device)
        answer = await self.server.poll(poll_request(self.device))
        interval_s = float(answer.interval_s)
        if answer.offer is None:
            reason = answer.reason or "the server offers nothing"
            return Answer(install=False, reason=reason, interval_s=interval_s)
        offer = answer.offer
        return Answer(
            True,
            offer.release,
            offer.counter,
            interval_s=interval_s,
            forced=offer.forced,
            download_only=offer.download_only,
        )


@asynccontextmanager
async def open_contact(device: Device, look: Look | None = None) -> AsyncIterator[Contact]:
    """The contact that the configuration asks for; `look` is for a static repository.

    Raises UsageError for a token that cannot be read, or that others can read.
    """
    config = device.config.server
    if config.token_file is None:
        yield Contact(device, None, look)
        return
    try:
        with config.token_file.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read(TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "server.token_file cannot be read",
            where=config.token_file,
            got=error,
            hint="Write the token that the server gave this device into it, mode 0600",
        ) from error
    if mode & 0o077:
        raise UsageError(
            "others can read the device's token",
            where=config.token_file,
            expected="mode 0600",
            got=f"{mode:04o}",
            hint="Run chmod 600 on it; if others had access, register the device again",
        )
    async with poll.Server(config.url, token, clock=device.clock, ca_file=config.ca_file) as server:
        yield Contact(device, server)


def poll_request(device: Device) -> poll.PollRequest:
    """What the device is: from the boot entries and the records on disk."""
    booted = device.boot.booted()
    records = device.slots.records()
    entries = {entry.slot: entry for entry in device.boot.entries()}
    running = entries.get(booted.slot or "")
    return poll.PollRequest(
        device=device.config.device_id,
        product=device.config.product,
        hardware=device.config.hardware,
        release=records[booted.slot].release if booted.slot in records else None,
        counter=booted.counter,
        booted_root=None if booted.root is None else booted.root.hex,
        slots=tuple(
            poll.SlotReport(
                name,
                records[name].release if name in records else None,
                entries[name].state if name in entries else "empty",
            )
            for name in sorted(device.config.slots)
        ),
        failed=tuple(
            poll.FailedRelease(one.release, one.reason[:FAILED_REASON_CHARS_MAX])
            for one in device.slots.denied()
        ),
        trial=running is not None and running.state is EntryState.TRIAL,
        floor=device.floor(),
        channel=device.config.channel,
    )


def wire_report(device: Device, report: Report) -> poll.Report:
    """A report as it is sent. Its key is unique in the fleet, so that sending twice counts once."""
    return poll.Report(
        key=f"{device.config.device_id}-{report.key}",
        device=device.config.device_id,
        kind=report.kind,  # type: ignore[arg-type] # written by this installer, from the same words
        at=report.at,
        release=report.release or None,
        counter=report.counter,
        booted_root=report.booted_root or None,
        reason=report.reason,
        details=dict(report.details),
    )
