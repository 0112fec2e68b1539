"""Webhooks: where events are sent, and whether they arrived. What sends them: fleet/courier.py."""

import base64
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from slipstream.delta.limits import WEBHOOKS_MAX
from slipstream.server.api.call import (
    Act,
    Answer,
    Call,
    Done,
    Page,
    PageQuery,
    World,
    missing,
    number_after,
    page_of,
    taken,
)
from slipstream.server.fleet.courier import make_secret
from slipstream.server.store import webhooks
from slipstream.server.store.webhooks import KINDS, TEST, Webhook
from slipstream.server.wire import Body, refusal

Kind = Literal["rollout", "phase", "failed", "fell_back", "regressed", "silent", "lifted"]
assert set(Kind.__args__) == set(KINDS)  # type: ignore[attr-defined]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=2048, pattern=r"^[!-~]+\Z")]


class NewWebhook(Body, frozen=True):
    """Where events of these kinds are sent."""

    url: Address
    kinds: Annotated[tuple[Kind, ...], msgspec.Meta(min_length=1)] = KINDS


class ShownWebhook(msgspec.Struct, frozen=True):
    """A webhook, without its secret."""

    id: int
    url: str
    kinds: tuple[str, ...]
    created_at: int


class MadeWebhook(msgspec.Struct, frozen=True):
    """A webhook; `secret`, as Standard Webhooks spells it, is shown this once."""

    webhook: ShownWebhook
    secret: str | None


class ShownDelivery(msgspec.Struct, frozen=True):
    """An event on its way. `due_at` null: delivered, or given up."""

    id: int
    kind: str
    body: msgspec.Raw
    created_at: int
    tries: int
    due_at: int | None
    delivered_at: int | None
    error: str


async def list_webhooks(world: World, _call: Call) -> Answer:
    """All webhooks."""
    async with world.database.reading() as connection:
        found = await webhooks.list_all(connection)
    return Answer(value=Page(tuple(_show(one) for one in found), None))


async def add_webhook(_world: World, call: Call) -> Act:
    """Have events sent somewhere: signed as Standard Webhooks does, and retried for 29 hours.

    An event may come twice, and events out of order: `webhook-id` tells the same from another.
    """
    body: NewWebhook = call.body
    _check_url(body.url)
    secret = make_secret()

    async def act(connection: AsyncConnection) -> Done:
        number = await webhooks.add(connection, body.url, body.kinds, secret, call.now)
        if len(await webhooks.list_all(connection)) > WEBHOOKS_MAX:
            raise taken(f"there are {WEBHOOKS_MAX} webhooks already")
        shown = ShownWebhook(number, body.url, tuple(sorted(set(body.kinds))), call.now)
        spelled = "whsec_" + base64.b64encode(secret).decode()
        return Done(
            value=MadeWebhook(shown, spelled),
            kept=MadeWebhook(shown, None),
            thing=f"webhook {number}",
            after=shown,
        )

    return act


async def remove_webhook(_world: World, call: Call) -> Act:
    """Send nothing there any more."""
    number = int(call.places["webhook"])

    async def act(connection: AsyncConnection) -> Done:
        if not await webhooks.remove(connection, number):
            raise missing(f"webhook {number}")
        return Done(thing=f"webhook {number}")

    return act


async def send_test(_world: World, call: Call) -> Act:
    """Send an event of the kind test, to see that it arrives."""
    number = int(call.places["webhook"])

    async def act(connection: AsyncConnection) -> Done:
        body = msgspec.json.encode({"kind": TEST, "at": call.now, "by": call.identity.actor})
        if not await webhooks.enqueue(connection, TEST, body.decode(), call.now, only=number):
            raise missing(f"webhook {number}")
        return Done(thing=f"webhook {number}")

    return act


async def list_deliveries(world: World, call: Call) -> Answer:
    """What was sent to a webhook, newest first, and why it did not arrive."""
    query: PageQuery = call.query
    async with world.database.reading() as connection:
        found = await webhooks.list_of_webhook(
            connection,
            int(call.places["webhook"]),
            before=number_after(query.after),
            limit=query.limit,
        )
    shown = tuple(
        ShownDelivery(
            one.id,
            one.kind,
            msgspec.Raw(one.body.encode()),
            one.created_at,
            one.tries,
            one.due_at,
            one.delivered_at,
            one.error,
        )
        for one in found
    )
    return Answer(value=page_of(shown, query.limit, lambda one: one.id))


def _check_url(text: str) -> None:
    try:
        url = URL(text)
        fine = url.scheme in ("http", "https") and bool(url.host) and url.user is None
    except ValueError:
        fine = False
    if not fine:
        raise refusal(
            web.HTTPBadRequest,
            "not an address; expected http:// or https:// without a user",
            field="$.url",
        )


def _show(webhook: Webhook) -> ShownWebhook:
    return ShownWebhook(webhook.id, webhook.url, webhook.kinds, webhook.created_at)
