"""A look at a static repository, in a process of its own: is there something to install?

With a server, the server says so. Without one the device has to verify the repository's metadata,
and what does that takes as much memory as a quarter of an agent that waits; Python gives none of it
back. So an agent that waits for days has a process look, and that process ends (docs/device.md,
"Memory"). What it says is a hint, as a server's offer is: the install verifies everything anew.

    python -m slipstream.installer.look device.toml        prints one line of JSON
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from slipstream.delta.errors import (
    Busy,
    DeviceFault,
    NothingToDo,
    Rejected,
    SlipstreamError,
    Unavailable,
    UsageError,
)
from slipstream.delta.limits import LOOK_TIMEOUT_S
from slipstream.installer.command import run_for_output
from slipstream.installer.config import load_config
from slipstream.installer.contact import Answer
from slipstream.installer.device import Device, open_device
from slipstream.installer.states import Refused

# By what to do about it; what is none of these is a SlipstreamError.
_KINDS = {
    kind.__name__: kind
    for kind in (NothingToDo, Busy, Refused, Rejected, Unavailable, DeviceFault, UsageError)
}


class Seen(msgspec.Struct, omit_defaults=True):
    """What a look found: a release, or the error that an install would end with now."""

    release: str | None = None
    counter: int | None = None
    kind: str = ""  # of the error
    reason: str = ""
    retry_after_s: float | None = None


async def look(device: Device) -> Answer:
    """What the repository has for this device. Raises what a look in this process would raise."""
    # -P: not from a folder that the agent happens to be started in.
    words = (sys.executable, "-P", "-m", __name__, str(device.config.path))
    result = await run_for_output(words, LOOK_TIMEOUT_S)
    try:
        seen = msgspec.json.decode(result.output.splitlines()[-1], type=Seen)
    except (IndexError, msgspec.MsgspecError) as error:
        raise SlipstreamError(
            "the process that looks for a release did not say what it found",
            where=" ".join(words),
            got=f"{result.how}: {result.last_line}",
        ) from error
    if seen.release is not None:
        return Answer(install=True, release=seen.release, counter=seen.counter)
    kind = _KINDS.get(seen.kind, SlipstreamError)
    if kind in (NothingToDo, Busy, Refused):  # Refused: a release waits for its trial, or is in it
        return Answer(install=False, reason=seen.reason)
    if kind is Unavailable:
        raise Unavailable(seen.reason, retry_after_s=seen.retry_after_s)
    raise kind(seen.reason)


async def look_here(config: Path) -> Seen:
    """The look itself. Takes the installer's lock; writes nothing but metadata."""
    from slipstream.installer.prepare import prepare  # noqa: PLC0415 # what all this is about

    try:
        async with open_device(load_config(config)) as device:
            manifest = (await prepare(device)).manifest
    except SlipstreamError as error:
        names = (one.__name__ for one in type(error).__mro__)
        return Seen(
            kind=next((name for name in names if name in _KINDS), ""),
            reason=str(error),
            retry_after_s=error.retry_after_s if isinstance(error, Unavailable) else None,
        )
    return Seen(manifest.release, manifest.counter)


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(look_here(Path(sys.argv[1])))).decode())
