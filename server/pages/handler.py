"""The routes of the pages."""

from dataclasses import dataclass

from aiohttp import web

from slipstream.server.pages.audit_page import AuditHandler
from slipstream.server.pages.desk import Desk, static
from slipstream.server.pages.feed import Feed
from slipstream.server.pages.fleet_devices import DevicesHandler
from slipstream.server.pages.foresee import Foreseer
from slipstream.server.pages.login import LoginHandler
from slipstream.server.pages.overview import OverviewHandler
from slipstream.server.pages.release_pages import ReleasesHandler
from slipstream.server.pages.rollout_pages import RolloutsHandler
from slipstream.server.pages.visitor import Visitor


@dataclass(frozen=True, slots=True)
class Pages:
    """Answers browsers."""

    desk: Desk
    feed: Feed

    def routes(self) -> list[web.RouteDef]:
        desk = self.desk
        return [
            *OverviewHandler(desk).routes(),
            *DevicesHandler(desk).routes(),
            *RolloutsHandler(desk, Foreseer(desk.database, desk.poll_interval_s)).routes(),
            *ReleasesHandler(desk).routes(),
            *AuditHandler(desk).routes(),
            *LoginHandler(desk).routes(),
            desk.get("/live", self._live),
            web.get("/static/{name}", static),
        ]

    async def _live(self, request: web.Request, _visitor: Visitor) -> web.StreamResponse:
        return await self.feed.serve(request, request.query.get("topic", "fleet"))
