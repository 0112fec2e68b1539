"""GET and POST /login, POST /logout: sessions of users who have a password."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from slipstream.server.access import Deed, Identity, Role
from slipstream.server.api.accounts import Login
from slipstream.server.pages.desk import Desk, lead_to
from slipstream.server.pages.form import read_form
from slipstream.server.pages.visitor import Visitor, check_site
from slipstream.server.tokens import hash_token
from slipstream.server.wire import error_of

NOBODY = (
    "No user has a password, so nobody can log in here. Open / and give the operator's token as the password of any name,"
    " or add a person: slipstream user add NAME --role admin --token-file REPO/server/operator.token"
)
OF_INSTALLATION = (
    "That is the operator's token, and no password of a user. It logs nobody in where people have accounts; add yours:"
    " slipstream user add NAME --role admin --token-file REPO/server/operator.token"
)


@dataclass(frozen=True, slots=True)
class LoginHandler:
    """Lets people in and out."""

    desk: Desk

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/login", self._ask),
            web.post("/login", self._enter),
            self.desk.post("/logout", self._leave, Deed.KEEP_OWN),
        ]

    async def _ask(self, request: web.Request) -> web.Response:
        problem = "" if await self.desk.can_log_in() else NOBODY
        return self._form(request, local(request.query.get("to", "")), problem=problem)

    async def _enter(self, request: web.Request) -> web.Response:
        to = "/"
        fields: Mapping[str, str] = {}
        try:
            check_site(request)
            fields = await read_form(request)
            to = local(fields.get("to", ""))
            login = msgspec.convert(
                {"user": fields.get("user", ""), "password": fields.get("password", "")}, Login
            )
            answer = await self.desk.carry_out(
                "session.begin",
                Identity("", Role.VIEWER),
                {},
                login,
                address=self.desk.world.address(request),
            )
        except msgspec.ValidationError:
            return self._form(request, to, 401, self._why("unknown user or wrong password", fields))
        except web.HTTPError as error:
            return self._form(request, to, error.status, self._why(error_of(error), fields))
        response = lead_to(to)
        response.headers["Set-Cookie"] = answer.headers["Set-Cookie"]
        return response

    async def _leave(
        self, _request: web.Request, visitor: Visitor, _fields: Mapping[str, str]
    ) -> web.StreamResponse:
        response = lead_to("/login")
        if visitor.identity.session is not None:
            answer = await self.desk.carry_out("session.end", visitor.identity, {}, None)
            response.headers["Set-Cookie"] = answer.headers["Set-Cookie"]
        return response

    def _why(self, problem: str, fields: Mapping[str, str]) -> str:
        """Who holds the installation's token and takes it for a password is told what it is."""
        digest = hash_token(fields.get("password", "").strip())
        return (
            OF_INSTALLATION
            if hmac.compare_digest(digest, self.desk.world.installation)
            else problem
        )

    def _form(
        self, request: web.Request, to: str, status: int = 200, problem: str = ""
    ) -> web.Response:
        return self.desk.render(request, None, "login.html", status=status, to=to, problem=problem)


def local(path: str) -> str:
    """The path to go on to after a login: of this server, whatever a link said."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\", "/login", "/live"))
    return path if inside and path.isprintable() and path.isascii() else "/"
