"""The other devices of the demonstration's fleet: no disk, no boot loader, but real words on the wire.

What they say of themselves is made up; the client that says it is the agent's (installer/poll.py).
"""

import asyncio
import time
from dataclasses import dataclass

from slipstream.delta.errors import SlipstreamError
from slipstream.installer.clock import SystemClock
from slipstream.installer.poll import PollAnswer, PollRequest, Report, Server
from slipstream.installer.reports import Failure

PRODUCT = "gateway"


@dataclass(frozen=True, slots=True)
class Running:
    """What a device runs. `root`: the root hash that it booted, in hex."""

    release: str
    counter: int
    root: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A device without a machine."""

    id: str
    token: str
    url: str

    def update(self, old: Running, new: Running) -> None:
        """Poll, take the release that is offered, boot and confirm it. Raises SlipstreamError if it is
        not offered."""
        asyncio.run(self._update(old, new, ("installed", "confirmed")))

    def fail(self, old: Running, new: Running) -> None:
        """The same up to its boot, which the release does not survive."""
        asyncio.run(self._update(old, new, ("installed", "fell_back")))

    def ask(self, running: Running) -> PollAnswer:
        """What the server says to it."""
        return asyncio.run(self._ask(running))

    async def _ask(self, running: Running) -> PollAnswer:
        async with Server(self.url, self.token, clock=SystemClock()) as server:
            return await server.poll(self._poll_of(running))

    async def _update(self, old: Running, new: Running, kinds: tuple[str, ...]) -> None:
        async with Server(self.url, self.token, clock=SystemClock()) as server:
            answer = await server.poll(self._poll_of(old))
            if answer.offer is None or answer.offer.release != new.release:
                raise SlipstreamError(
                    "the server does not offer the release",
                    where=self.id,
                    expected=new.release,
                    got=answer.reason,
                )
            for kind in kinds:
                await server.report(self._report_of(kind, new))
            if "confirmed" in kinds:
                await server.poll(self._poll_of(new))

    def _poll_of(self, running: Running) -> PollRequest:
        return PollRequest(
            device=self.id,
            product=PRODUCT,
            hardware="simulated",
            release=running.release,
            counter=running.counter,
            booted_root=running.root,
        )

    def _report_of(self, kind: str, new: Running) -> Report:
        fell_back = kind == "fell_back"
        return Report(
            key=f"{new.counter}-{kind}",
            device=self.id,
            kind=kind,  # type: ignore[arg-type]
            at=int(time.time()),
            release=new.release,
            counter=new.counter,
            booted_root=new.root,
            reason="three tries ran out before its health checks passed" if fell_back else "",
            details={"class": Failure.BOOT.value} if fell_back else {},
        )
