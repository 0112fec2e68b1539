"""Reports, queued for the server: the one place where their keys are made.

A key depends on nothing but what it is about and the kind, so that an act that is done again
after a power cut is told once. contact.py delivers what is queued here. With a static repository
nobody would ever fetch it, so nothing is queued.
"""

from collections.abc import Mapping
from enum import StrEnum

from slipstream.delta.errors import Rejected, SlipstreamError, Unavailable
from slipstream.installer.device import Device
from slipstream.installer.findings import WRONG_ROOT
from slipstream.installer.holds import Hold
from slipstream.installer.slots import Report
from slipstream.installer.states import Transaction


class Failure(StrEnum):
    """Why an update did not succeed: what the rules of a rollout tell apart."""

    FETCH = "fetch"  # network or server
    REJECTED = "rejected"  # a signature, a digest, a rule of this device
    DEVICE = "device"  # its disk or its boot loader
    BOOT = "boot"  # it was tried: a panic, a hang, a failed health check
    ROOT = "root"  # it was tried, and ran with another root hash than was signed

    @classmethod
    def of(cls, error: SlipstreamError) -> "Failure":
        """The class of what ended an install."""
        if isinstance(error, Unavailable):
            return cls.FETCH
        return cls.REJECTED if isinstance(error, Rejected) else cls.DEVICE

    @classmethod
    def of_trial(cls, reason: str) -> "Failure":
        """The class of what ended a trial: its reason is all that the journal keeps of it."""
        return cls.ROOT if reason.startswith(WRONG_ROOT) else cls.BOOT


def queue_report(
    device: Device,
    transaction: Transaction,
    kind: str,
    reason: str = "",
    *,
    failure: Failure | None = None,
    details: Mapping[str, str | int | bool] | None = None,
) -> None:
    """Queue it durably; one that waits already changes nothing. Raises DeviceFault.

    `failure` goes with kinds failed and fell_back, as `class` of the details.
    """
    if not _is_heard(device):
        return
    root = device.boot.booted().root
    device.slots.report(
        Report(
            key=f"{transaction.id}-{kind}",
            kind=kind,
            release=transaction.release,
            counter=transaction.counter,
            reason=reason,
            at=int(device.now().timestamp()),
            booted_root="" if root is None else root.hex,
            details={**(details or {}), **({} if failure is None else {"class": failure.value})},
        )
    )


def queue_hold_report(device: Device, hold: Hold, release: str, counter: int) -> None:
    """Say, once for each release, step and kind, what the step waits for. Raises DeviceFault."""
    if not _is_heard(device):
        return
    now = device.clock.now()
    details = {"waits_for": hold.kind.value, "step": hold.step.value}
    if hold.until is not None:
        details["until"] = f"{hold.until:%Y-%m-%dT%H:%M:%SZ}"
    device.slots.report(
        Report(
            key=f"{counter}-{hold.step}-waits-{hold.kind}",
            kind="progress",
            release=release,
            counter=counter,
            reason=hold.words(now),
            at=int(device.now().timestamp()),
            details=details,
        )
    )


def _is_heard(device: Device) -> bool:
    """Whether there is a server that takes reports: contact.py talks to one with a token only."""
    return device.config.server.token_file is not None
