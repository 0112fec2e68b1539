"""GET /: how the fleet is. In three seconds: is it there, is it well, what moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from slipstream.delta.limits import CHART_S
from slipstream.server.pages.bars import Chart, stack
from slipstream.server.pages.desk import Desk
from slipstream.server.pages.rollout_view import Card, make_card
from slipstream.server.pages.visitor import Visitor
from slipstream.server.rollout.judge import Tally
from slipstream.server.rollout.plan import FailureClass
from slipstream.server.rollout.record import Rollout, Status
from slipstream.server.store import census, devices, events, quarantines, rollouts, tallies
from slipstream.server.store.rollouts import OpenPhase

_MOVING = (Status.RUNNING, Status.PAUSED, Status.WAITING, Status.SCHEDULED)
_CARDS_MAX = 8
_NEWS_MAX = 8


@dataclass(frozen=True, slots=True)
class Overview:
    """The fleet's figures."""

    total: int
    online: int
    overdue: int
    never: int
    regressed: (
        int  # devices that fell back after they were confirmed, in rollouts that are not over
    )
    quarantined: int  # devices that have a release which is not offered to them again
    running: int
    paused: int
    waiting: int


@dataclass(frozen=True, slots=True)
class OverviewHandler:
    """Answers GET /."""

    desk: Desk

    def routes(self) -> list[web.RouteDef]:
        return [self.desk.get("/", self._show)]

    async def _show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        desk, now = self.desk, self.desk.now()
        await desk.polls.flush()
        async with desk.database.reading() as connection:
            seen = await devices.count_seen(connection, now - desk.online_s)
            quarantined = await quarantines.count_devices(connection)
            current = await census.count(connection)
            history = await census.history(connection, now - CHART_S)
            statuses = await rollouts.count_of_status(connection)
            moving = await rollouts.list_page(
                connection, before=None, limit=_CARDS_MAX, statuses=_MOVING
            )
            watched = list(desk.board.view.by_id)
            opened = await rollouts.open_phases(connection, [one.id for one in moving])
            counted = await tallies.of_rollouts(connection, watched)
            news = await events.list_of_kinds(connection, ("phase", "rollout"), limit=_NEWS_MAX)
        _, trouble = await desk.catalog_or_trouble()
        regressed = sum(
            tally.failures.get(FailureClass.REGRESSED, 0)
            for phases in counted.values()
            for tally in phases.values()
        )
        return desk.render(
            request,
            visitor,
            "overview.html",
            live="fleet",
            trouble=trouble,
            fleet=_overview(seen, regressed, quarantined, statuses),
            cards=_cards(moving, opened, counted),
            chart=_chart(history, current, now),
            news=news,
            online_s=desk.online_s,
            names={one.id: one.plan.name for one in moving}
            | {key: one.plan.name for key, one in desk.board.view.by_id.items()},
        )


def _overview(
    seen: tuple[int, int, int], regressed: int, quarantined: int, statuses: Mapping[Status, int]
) -> Overview:
    total, online, never = seen
    return Overview(
        total=total,
        online=online,
        overdue=total - online - never,
        never=never,
        regressed=regressed,
        quarantined=quarantined,
        running=statuses.get(Status.RUNNING, 0),
        paused=statuses.get(Status.PAUSED, 0),
        waiting=statuses.get(Status.WAITING, 0),
    )


def _cards(
    moving: Sequence[Rollout],
    opened: Mapping[int, tuple[OpenPhase, ...]],
    counted: Mapping[int, Mapping[int, Tally]],
) -> list[Card]:
    """Those that want a person first, then those that run."""
    cards = [make_card(one, opened.get(one.id, ()), counted.get(one.id, {})) for one in moving]
    order = {"Paused": 0, "Waits for approval": 1, "Running": 2}
    return sorted(cards, key=lambda card: order.get(card.status, 3))


def _chart(
    history: Mapping[int, Mapping[tuple[str, str], int]],
    current: Sequence[census.Count],
    now: int,
) -> Chart:
    products = {one.product for one in current} | {
        product for counts in history.values() for product, _ in counts
    }
    many = len(products) > 1

    def name(product: str, release: str) -> str:
        return f"{product} {release}" if many and release else release

    def named(counts: Mapping[tuple[str, str], int]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for (product, release), number in counts.items():
            key = name(product, release)
            found[key] = found.get(key, 0) + number
        return found

    now_counts = named({(one.product, one.release): one.devices for one in current})
    return stack({at: named(counts) for at, counts in history.items()}, now_counts, now)
