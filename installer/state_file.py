"""Small JSON files of device state that may be missing, torn by a broken disk, or foreign.

A state file is never a reason to stop: the truth is in the slots and the boot entries. A file
that does not parse is set aside under the name `<file>.broken` for a person to look at, and
the caller goes on without it and says so.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from slipstream.delta.durable import rename_durably, sync_folder, write_durably
from slipstream.delta.errors import DeviceFault, Rejected
from slipstream.delta.limits import STATE_FILE_BYTES_MAX

W = TypeVar("W", bound=msgspec.Struct)
T = TypeVar("T")


def read_state(
    path: Path,
    wire: type[W],
    parse: Callable[[W], T],
    on_notice: Callable[[str], None],
    *,
    repair: bool = True,
) -> T | None:
    """The value in a state file; None when there is none or it is broken.

    Without `repair` a broken one stays where it is.

    Raises DeviceFault when the disk does not answer.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(STATE_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_fault(path, "read", error) from error
    try:
        if len(raw) > STATE_FILE_BYTES_MAX:
            raise ValueError(f"larger than {STATE_FILE_BYTES_MAX} bytes")
        return parse(msgspec.json.decode(raw, type=wire, strict=True))
    except (msgspec.DecodeError, ValueError, Rejected) as error:
        if not repair:
            on_notice(f"{path.name} is not readable ({error})")
            return None
        broken = path.with_name(f"{path.name}.broken")
        try:
            rename_durably(path, broken)
        except OSError as failure:
            raise state_fault(path, "set aside", failure) from failure
        on_notice(f"{path.name} was not readable ({error}); it was set aside as {broken.name}")
        return None


def write_state(path: Path, value: msgspec.Struct) -> None:
    """Replace a state file durably. Raises DeviceFault."""
    try:
        write_durably(path, msgspec.json.encode(value))
    except OSError as error:
        raise state_fault(path, "written", error) from error


def remove_state(path: Path) -> None:
    """Remove a state file durably; one that is not there is fine. Raises DeviceFault."""
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise state_fault(path, "removed", error) from error


def state_fault(path: Path, verb: str, error: OSError) -> DeviceFault:
    """The DeviceFault for an OSError in the state folder."""
    hint = "Check the disk that holds the state folder"
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        hint = "Make room on the file system that holds the state folder"
    return DeviceFault(
        f"device state could not be {verb}",
        where=path,
        got=os.strerror(error.errno or 0),
        hint=hint,
    )
