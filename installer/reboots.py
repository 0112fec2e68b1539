"""How often the agent rebooted the device because of one release: reboots.json.

A boot loader that never starts the new release, or that never leaves a bad one, must not keep the
device rebooting for ever: REBOOTS_MAX and REBOOTS_ALL_MAX (delta/limits.py). What was asked for in this
boot did not happen, or not yet: a command that refuses or is killed says nothing of the boot loader.
"""

import msgspec

from slipstream.installer.device import Device
from slipstream.installer.evidence import running_entry
from slipstream.installer.ports import BootEntry
from slipstream.installer.state_file import read_state, remove_state, write_state
from slipstream.installer.states import Idle, Transaction


class _WireReboots(msgspec.Struct):
    """`count` times asked for because of `transaction`, each in another boot, in `boot` last."""

    transaction: str
    count: int
    boot: str = ""


def note_reboot(device: Device) -> None:
    """A reboot is about to be asked for. In one boot it counts once. Raises DeviceFault."""
    state, entry = device.journal.state, running_entry(device)
    if not isinstance(state, Idle):
        about: Transaction | BootEntry = state.transaction
    elif entry is not None:
        about = entry
    else:
        return
    found = _read(device, about)
    if found is not None and _is_now(device, found):
        return
    count = 1 if found is None else found.count + 1
    write_state(device.state / "reboots.json", _WireReboots(_key(about), count, device.boot_id))


def reboots_of(device: Device, about: Transaction | BootEntry) -> int:
    """How often the device started anew after one was asked for because of this transaction, or entry
    without a record."""
    found = _read(device, about)
    if found is None:
        return 0
    return found.count - int(_is_now(device, found))


def forget_reboots(device: Device) -> None:
    """An install begins: what was asked for because of the release before does not count."""
    remove_state(device.state / "reboots.json")


def _read(device: Device, about: Transaction | BootEntry) -> _WireReboots | None:
    path = device.state / "reboots.json"
    found = read_state(path, _WireReboots, lambda wire: wire, device.notices.append)
    return found if found is not None and found.transaction == _key(about) else None


def _is_now(device: Device, found: _WireReboots) -> bool:
    """Whether the last one was asked for in this boot. Where the kernel does not say, it was not."""
    return bool(device.boot_id) and found.boot == device.boot_id


def _key(about: Transaction | BootEntry) -> str:
    return about.id if isinstance(about, Transaction) else f"{about.slot}-{about.counter}"
