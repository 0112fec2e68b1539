"""The real clock. Tests have their own (tests/installer/lab.py)."""

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """The operating system's clock: implements ports.Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
