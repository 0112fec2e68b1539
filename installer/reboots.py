"""How often a reboot was asked for without the boot loader trying the release.

A small durable count, reboots.json, so that a boot loader that never starts the new release
does not keep the device rebooting for ever.
"""

import msgspec

from slipstream.installer.device import Device
from slipstream.installer.state_file import read_state, write_state
from slipstream.installer.states import Committed, Transaction

REBOOTS_MAX = 3


class _WireReboots(msgspec.Struct):
    transaction: str
    count: int


def note_reboot(device: Device) -> None:
    """A reboot is about to be asked for, to try a release. Once a boot, or the count is wrong."""
    state = device.journal.state
    if isinstance(state, Committed):
        count = reboots_of(device, state.transaction) + 1
        write_state(device.state / "reboots.json", _WireReboots(state.transaction.id, count))


def reboots_of(device: Device, transaction: Transaction) -> int:
    path = device.state / "reboots.json"
    found = read_state(path, _WireReboots, lambda wire: wire, device.notices.append)
    return found.count if found is not None and found.transaction == transaction.id else 0
