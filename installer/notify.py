"""sd_notify: tells the service manager that the agent is ready, what it does, that it lives.

Datagrams of "KEY=value" lines to the socket in $NOTIFY_SOCKET (man sd_notify). The address is an
argument: only the command line reads the environment. A notification that cannot be sent is
dropped: it is never a reason to stop updating.

The file "stays" in the service's runtime directory says that an unhealthy release has nothing to
fall back to: resetting it would bring it back for ever, and slipstream-trial.service does not.
"""

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from slipstream.installer.ports import Clock


class Notifier:
    """A connection to the service manager; without an address every call does nothing."""

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        runtime: Path | None = None,
    ) -> None:
        """`watchdog_s`: the manager kills the service when it hears nothing for so long.

        `runtime`: the service's folder in /run.
        """
        # A leading "@" stands for the NUL of Linux's abstract namespace.
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self.watchdog_s = watchdog_s if address else None
        self._runtime = runtime

    @classmethod
    def of_environment(cls, variables: Mapping[str, str]) -> Self:
        """What systemd tells a service of Type=notify (man sd_notify, sd_watchdog_enabled, and
        RuntimeDirectory= in man systemd.exec).
        """
        watchdog_us = variables.get("WATCHDOG_USEC", "")
        runtime = variables.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return cls(
            variables.get("NOTIFY_SOCKET"),
            watchdog_s=int(watchdog_us) / 1e6 if watchdog_us.isdigit() else None,
            runtime=Path(runtime) if runtime else None,
        )

    def say_stays(self, stays: bool) -> None:
        """Whether the running release must not be reset though it is not healthy."""
        if self._runtime is None:
            return
        path = self._runtime / "stays"
        with contextlib.suppress(OSError):
            if stays:
                path.touch()
            else:
                path.unlink(missing_ok=True)

    def send(self, **fields: str) -> None:
        """One message, such as send(READY="1", STATUS="polling")."""
        if not self._address:
            return
        text = "\n".join(f"{key}={value.splitlines()[0]}" for key, value in fields.items() if value)
        with contextlib.suppress(OSError), _datagram() as channel:
            channel.sendto(text.encode(), self._address)


def _datagram() -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    channel.setblocking(False)
    return channel


async def feed_watchdog(clock: Clock, notifier: Notifier) -> None:
    """Say twice in the manager's interval that the event loop still turns."""
    while notifier.watchdog_s is not None:
        notifier.send(WATCHDOG="1")
        await clock.sleep(notifier.watchdog_s / 2)
