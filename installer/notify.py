"""sd_notify: tells the service manager that the agent is ready, what it does, that it lives.

Datagrams of "KEY=value" lines to the socket in $NOTIFY_SOCKET (man sd_notify). The address is an
argument: only the command line reads the environment. A notification that cannot be sent is
dropped: it is never a reason to stop updating.
"""

import contextlib
import socket


class Notifier:
    """A connection to the service manager; without an address every call does nothing."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """`watchdog_s`: the manager kills the service when it hears nothing for so long."""
        # A leading "@" stands for the NUL of Linux's abstract namespace.
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self.watchdog_s = watchdog_s if address else None

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
