"""The courier: one server at a time sends what is queued for webhooks.

Signed as Standard Webhooks (standardwebhooks.com) does: HMAC-SHA256 with the webhook's secret over
`id.timestamp.body`. At least once: a kill between a delivery and its note sends it again, under the
same webhook-id.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import structlog

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import (
    DELIVERIES_KEPT_S,
    FORGET_S,
    WEBHOOK_BATCH_MAX,
    WEBHOOK_DELAY_S,
    WEBHOOK_DELAY_S_MAX,
    WEBHOOK_LEASE_S,
    WEBHOOK_REST_S_MAX,
    WEBHOOK_ROUND_S,
    WEBHOOK_TICK_S,
    WEBHOOK_TIMEOUT_S,
    WEBHOOK_TRIES_MAX,
)
from slipstream.server.fleet.loop import Loop
from slipstream.server.store import leases, webhooks
from slipstream.server.store.database import Database
from slipstream.server.store.webhooks import Delivery, Webhook

SECRET_BYTES: Final = 32
_DUTY = "webhooks"
_log: Any = structlog.get_logger(__name__)


def make_secret() -> bytes:
    """What a webhook's deliveries are signed with."""
    return secrets.token_bytes(SECRET_BYTES)


def sign(secret: bytes, delivery: int, body: str, now: int) -> Mapping[str, str]:
    """The headers of a delivery: its id, when it was signed, and the signature over both and body.

    A receiver refuses a timestamp that is minutes away from its clock: nobody can replay it later.
    """
    name = f"msg_{delivery}"
    made = hmac.new(secret, f"{name}.{now}.{body}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(made).decode()}",
    }


def due_again(tries: int, now: int) -> int | None:
    """When a delivery that failed for the `tries`th time is sent again; None: given up."""
    if tries >= WEBHOOK_TRIES_MAX:
        return None
    return now + min(WEBHOOK_DELAY_S << (tries - 1), WEBHOOK_DELAY_S_MAX)


@dataclass
class Courier:
    """Delivers while `running` is entered. `holder` is this process's own name among servers."""

    database: Database
    now: Callable[[], int]  # seconds since 1970
    holder: str
    _forgotten_at: int = 0
    _resting: dict[int, tuple[int, int]] = field(default_factory=dict)  # failures, until when
    _session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        self.loop = Loop("webhooks", self._deliver, WEBHOOK_TICK_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Courier"]:
        """Looks again and again while inside; gives its duty back at the end."""
        timeout = aiohttp.ClientTimeout(total=WEBHOOK_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                self._session = session
                async with self.loop.running():
                    yield self
        finally:
            with suppress(SlipstreamError):
                await self.database.write(
                    lambda connection: leases.give_back(connection, _DUTY, self.holder)
                )

    async def _deliver(self) -> None:
        assert self._session is not None
        await self.deliver(self._session)

    async def deliver(self, session: aiohttp.ClientSession) -> int:
        """Send what is due, if the duty is ours: how many arrived."""
        now = self.now()
        resting = [webhook for webhook, (_, until) in self._resting.items() if now < until]
        async with self.database.reading() as connection:
            waiting = await webhooks.due(connection, now, limit=1, resting=resting)
        forgetting = now - self._forgotten_at >= FORGET_S
        if not waiting and not forgetting:
            return 0  # an idle look is one statement, and writes nothing
        mine = await self.database.write(
            lambda connection: leases.take(connection, _DUTY, self.holder, now, WEBHOOK_LEASE_S)
        )
        if mine is None:
            return 0
        async with self.database.reading() as connection:
            waiting = await webhooks.due(connection, now, limit=WEBHOOK_BATCH_MAX, resting=resting)
            known = {one.id: one for one in await webhooks.list_all(connection)}
        queues: dict[int, list[Delivery]] = {}
        for one in waiting:
            queues.setdefault(one.webhook, []).append(one)
        arrived = await asyncio.gather(
            *(
                self._empty(session, known[key], queue)
                for key, queue in queues.items()
                if key in known
            )
        )
        if forgetting:
            await self.database.write(
                lambda connection: webhooks.forget(connection, now - DELIVERIES_KEPT_S)
            )
            self._forgotten_at = now
        return sum(arrived)

    async def _empty(
        self, session: aiohttp.ClientSession, webhook: Webhook, queue: Sequence[Delivery]
    ) -> int:
        """Send one after the other, until one fails or the lease may soon be another's.

        One that fails lets the whole webhook rest: whoever is dead is not asked for each delivery.
        """
        clock = asyncio.get_running_loop().time
        until, arrived = clock() + WEBHOOK_ROUND_S, 0
        for one in queue:
            if clock() > until:
                break
            error = await self._send(session, webhook, one)
            if error is not None:
                fails = self._resting.get(webhook.id, (0, 0))[0]
                rest_s = min(WEBHOOK_DELAY_S << fails, WEBHOOK_REST_S_MAX)
                self._resting[webhook.id] = min(fails + 1, 16), self.now() + rest_s
                await self._note_failed(one, error)
                break
            self._resting.pop(webhook.id, None)
            await self._note_delivered(one)
            arrived += 1
        return arrived

    async def _send(
        self, session: aiohttp.ClientSession, webhook: Webhook, delivery: Delivery
    ) -> str | None:
        """Why it did not arrive, or None."""
        headers = {
            **sign(webhook.secret, delivery.id, delivery.body, self.now()),
            "Content-Type": "application/json",
        }
        try:
            async with session.post(
                webhook.url, data=delivery.body.encode(), headers=headers, allow_redirects=False
            ) as response:
                return None if 200 <= response.status < 300 else f"HTTP {response.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return f"{type(error).__name__}: {error}"[:500]

    async def _note_delivered(self, delivery: Delivery) -> None:
        now = self.now()
        await self.database.write(
            lambda connection: webhooks.note_delivered(connection, delivery.id, now)
        )

    async def _note_failed(self, delivery: Delivery, error: str) -> None:
        due_at = due_again(delivery.tries + 1, self.now())
        _log.warning("webhook not delivered", webhook=delivery.webhook, reason=error)
        await self.database.write(
            lambda connection: webhooks.note_failed(connection, delivery.id, error, due_at)
        )
