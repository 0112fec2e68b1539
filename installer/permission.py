"""May this device install, may it reboot: the facts for holds.py, and the operator's command.

Also remembers what the agent last waited for, for `device status`: held.json.
"""

import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from slipstream.delta.limits import INHIBITORS_MAX
from slipstream.installer.command import run_for_output
from slipstream.installer.device import Device
from slipstream.installer.holds import Facts, Hold, HoldKind, Policy, Step, find_hold, holds
from slipstream.installer.state_file import read_state, remove_state, write_state

_LINE_CHARS = 200  # of an inhibitor's first line


async def find_reason_to_wait(
    device: Device, step: Step, release: str, policy: Policy, turn: datetime | None = None
) -> Hold | None:
    """Why `step` has to wait by this policy; None if it may be taken now. Raises DeviceFault.

    The command is asked last, and only when nothing else holds the step: it may take a lock.
    """
    agent = device.config.agent
    hold = find_hold(step, policy, gather_facts(device, turn))
    if hold is not None or not agent.allow_command or not holds(policy.inhibit_holds, step):
        return hold
    variables = {"SLIPSTREAM_STEP": step.value, "SLIPSTREAM_RELEASE": release}
    result = await run_for_output(agent.allow_command, agent.allow_timeout_s, variables)
    if result.code == 0:
        return None
    how = result.last_line or result.how
    return Hold(step, HoldKind.COMMAND, f"{Path(agent.allow_command[0]).name}: {how}")


def gather_facts(device: Device, turn: datetime | None = None) -> Facts:
    """The clock, what it must not be before, and the inhibitors."""
    return Facts(
        clock=device.clock.now(),
        signed=device.signed_time(),
        inhibitors=find_inhibitors(device.config.agent.inhibit_files),
        turn=turn,
        synchronised=device.clock.synchronised(),
    )


def find_inhibitors(paths: Iterable[Path]) -> tuple[str, ...]:
    """The reasons in all files that inhibit: "PATH: first line". Folders are looked into.

    What is there but cannot be read inhibits as well. Never raises.
    """
    found: list[str] = []
    for path in paths:
        for file in _files_of(path):
            if len(found) == INHIBITORS_MAX:
                return (*found, "and others")
            found.append(f"{file}: {_first_line(file)}")
    return tuple(found)


def _files_of(path: Path) -> list[Path]:
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
        return sorted(path / name for name in os.listdir(path) if not name.startswith("."))
    except OSError:
        # A link that leads nowhere is there as well: somebody meant it.
        return [path] if os.path.lexists(path) else []


def _first_line(path: Path) -> str:
    try:
        # Never waits: a pipe in that place must not stop the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return "not a file"
            line = file.readline(4 * _LINE_CHARS)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    text = "".join(char for char in line.decode("utf-8", "replace") if char.isprintable())
    return text.strip()[:_LINE_CHARS] or "gives no reason"


# --- what the agent waited for last


class _WireHold(msgspec.Struct):
    step: Step
    kind: HoldKind
    reason: str
    until: int | None


def remember_hold(device: Device, hold: Hold | None) -> None:
    """Keep for `device status` what is waited for; None: nothing is. Raises DeviceFault."""
    path = _path(device)
    if hold is None:
        remove_state(path)
        return
    until = None if hold.until is None else int(hold.until.timestamp())
    write_state(path, _WireHold(hold.step, hold.kind, hold.reason, until))


def remembered_hold(device: Device) -> Hold | None:
    """What the agent waited for when it looked last."""
    return read_state(_path(device), _WireHold, _parse, device.notices.append)


def _parse(wire: _WireHold) -> Hold:
    until = None if wire.until is None else datetime.fromtimestamp(wire.until, UTC)
    return Hold(wire.step, wire.kind, wire.reason, until)


def _path(device: Device) -> Path:
    return device.state / "held.json"
