"""A report of a transaction, queued for the server: the one place where its key is made.

The key depends on nothing but the transaction and the kind, so that an act that is done again
after a power cut is told once. contact.py delivers what is queued here.
"""

from slipstream.installer.device import Device
from slipstream.installer.slots import Report
from slipstream.installer.states import Transaction


def queue_report(device: Device, transaction: Transaction, kind: str, reason: str = "") -> None:
    """Queue it durably; one that waits already changes nothing. Raises DeviceFault."""
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
        )
    )
