"""The real clock. Tests have their own (tests/installer/lab.py)."""

import asyncio
import ctypes
import time
from datetime import UTC, datetime

# What systemd calls synchronised (ntp_synced): the status flag alone is also set to keep the kernel
# off the hardware clock. The kernel raises the error by half a millisecond a second, and stops at 16 s.
_MAXERROR_UNSYNCHRONISED_US = 16_000_000


class _Timex(ctypes.Structure):
    """struct timex (man adjtimex), as far as it is read, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


class SystemClock:
    """The operating system's clock: implements ports.Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def synchronised(self) -> bool:
        timex = _Timex()  # no modes: it is only read
        try:
            state: int = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
        except (OSError, AttributeError):
            return False
        return state >= 0 and timex.maxerror < _MAXERROR_UNSYNCHRONISED_US

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
