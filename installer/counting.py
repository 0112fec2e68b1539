"""Whether boot counting works on this very board: the proof, kept with what gave it.

A trial ends by itself only where the firmware can write the boot partition: it renames the entry
before each try. Where it cannot, a release that hangs is started for ever. While a counted entry
runs, two names show which it is: the one that the boot loader reports, from before its rename, and
the one on the boot partition. What is seen is kept with the words of boot loader and firmware
(LoaderInfo, LoaderFirmwareInfo): another version of either has to show it again.

Lost state is no fault of the board: nothing is known then, and the next trial shows it again.
"""

from enum import StrEnum
from typing import assert_never

import msgspec

from slipstream.delta.errors import DeviceFault
from slipstream.installer.config import Counting
from slipstream.installer.device import Device
from slipstream.installer.ports import Counted
from slipstream.installer.state_file import read_state, write_state

STUCK = (
    "the boot loader started it without counting the try: its firmware does not write the boot "
    "partition, and nothing would end a trial that fails"
)
_RISK = "a release that hangs would be started for ever, and this device would need a visit"


class Proof(StrEnum):
    """What is known of boot counting on this board."""

    PROVED = "proved"
    STUCK = "stuck"
    UNKNOWN = "unknown"


class _Wire(msgspec.Struct):
    moved: bool
    loader: str


def observe_counting(device: Device) -> Counted:
    """Look whether the boot loader counted this start, and keep what is seen, durably.

    Before a confirm or condemn renames the entry. Raises DeviceFault.
    """
    seen = device.boot.counted()
    if seen.moved is not None and _read(device) != _Wire(seen.moved, seen.loader):
        write_state(device.state / "counting.json", _Wire(seen.moved, seen.loader))
    return seen


def read_proof(device: Device) -> Proof:
    """What was seen with the boot loader and firmware that are here now."""
    kept = _read(device)
    if kept is None or kept.loader != device.boot.counted().loader:
        return Proof.UNKNOWN
    return Proof.PROVED if kept.moved else Proof.STUCK


def check_counting(device: Device, *, attended: bool) -> str | None:
    """S0: whether an update may rely on boot counting. A note of the risk, where there is one.

    Attended, by a person who can visit the device, the risk is told. Unattended it is refused with
    DeviceFault, unless [boot] counting = "trusted"; and always where counting was seen to fail. On
    a device without any entry there is nothing to fall back to: its first release proves the board.
    """
    match read_proof(device):
        case Proof.PROVED:
            return None
        case Proof.STUCK:
            what = "boot counting was seen not to work on this board"
            hint = (
                "Update the firmware, or let it write the boot partition; then install by hand: the "
                "trial shows whether it counts"
            )
        case Proof.UNKNOWN:
            if device.config.boot.counting is Counting.TRUSTED or not device.boot.entries():
                return None
            what = "boot counting was never seen to work on this board"
            hint = (
                "Provision the first release with counters in its name (0001a+3-0.efi): it proves the "
                'board on its first boot. Or install by hand once, or say [boot] counting = "trusted"'
            )
        case unreachable:
            assert_never(unreachable)
    if attended:
        return f"{what}: {_RISK}"
    raise DeviceFault(f"{what}: {_RISK}", where="boot loader", hint=hint)


def _read(device: Device) -> _Wire | None:
    path = device.state / "counting.json"
    return read_state(path, _Wire, lambda wire: wire, device.notices.append)
