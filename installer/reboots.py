"""How often the agent asked for a reboot because of one release: reboots.json.

A boot loader that never starts the new release, or that never leaves a bad one, must not keep the
device rebooting for ever: REBOOTS_MAX and REBOOTS_ALL_MAX (delta/limits.py).
"""

import msgspec

from slipstream.installer.device import Device
from slipstream.installer.evidence import running_entry
from slipstream.installer.ports import BootEntry
from slipstream.installer.state_file import read_state, remove_state, write_state
from slipstream.installer.states import Idle, Transaction


class _WireReboots(msgspec.Struct):
    transaction: str
    count: int


def note_reboot(device: Device) -> None:
    """A reboot is about to be asked for. Once a boot, or the count is wrong. Raises DeviceFault."""
    state, entry = device.journal.state, running_entry(device)
    if not isinstance(state, Idle):
        about: Transaction | BootEntry = state.transaction
    elif entry is not None:
        about = entry
    else:
        return
    wire = _WireReboots(_key(about), reboots_of(device, about) + 1)
    write_state(device.state / "reboots.json", wire)


def take_back_reboot(device: Device) -> None:
    """The reboot was refused, so it says nothing of the boot loader. Raises DeviceFault."""
    path = device.state / "reboots.json"
    found = read_state(path, _WireReboots, lambda wire: wire, device.notices.append)
    if found is not None and found.count:
        write_state(path, _WireReboots(found.transaction, found.count - 1))


def reboots_of(device: Device, about: Transaction | BootEntry) -> int:
    """How often one was asked for because of this transaction, or entry without a record."""
    path = device.state / "reboots.json"
    found = read_state(path, _WireReboots, lambda wire: wire, device.notices.append)
    return found.count if found is not None and found.transaction == _key(about) else 0


def forget_reboots(device: Device) -> None:
    """An install begins: what was asked for because of the release before does not count."""
    remove_state(device.state / "reboots.json")


def _key(about: Transaction | BootEntry) -> str:
    return about.id if isinstance(about, Transaction) else f"{about.slot}-{about.counter}"
