"""Who looks at a page, and what they may do there.

Every form carries a token that only the pages know: another site can make a browser send a form,
and its cookie or password with it, but cannot read the token.
"""

import hashlib
import hmac
from dataclasses import dataclass

from aiohttp import web

from slipstream.server.access import (
    INSTALLATION,
    WHO_MAY,
    Deed,
    Forbidden,
    Identity,
    Role,
    authorise,
    authorise_approval,
)
from slipstream.server.api.call import World
from slipstream.server.api.door import csrf_token, identify
from slipstream.server.tokens import basic_password, hash_token
from slipstream.server.wire import refusal


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, and the token that their forms carry."""

    identity: Identity
    form_token: str

    def may(self, deed: Deed) -> bool:
        """Whether the pages show what does it; whether it is done is decided once more then."""
        return self.identity.role.rank >= WHO_MAY[deed].rank

    def require(self, deed: Deed) -> None:
        """Forbidden unless they may."""
        authorise(self.identity, deed)

    def may_decide(self, author: str) -> bool:
        """Whether they may approve or deny what `author` wrote."""
        try:
            authorise_approval(self.identity, author)
        except Forbidden:
            return False
        return True


async def greet(world: World, request: web.Request) -> Visitor | None:
    """The visitor: by session, or by the operator's token as the password of Basic; or nobody."""
    identity = await identify(world, request, world.now())
    if identity is None:
        password = basic_password(request.headers.get("Authorization"))
        if password is None or not hmac.compare_digest(hash_token(password), world.installation):
            return None
        identity = Identity(INSTALLATION, Role.ADMIN)
    if identity.session is not None:
        return Visitor(identity, csrf_token(identity.session))
    token = hmac.new(world.installation, b"forms of the pages", hashlib.sha256)
    token.update(identity.actor.encode())
    return Visitor(identity, token.hexdigest())


def check_form(request: web.Request, visitor: Visitor, sent: str) -> None:
    """403 unless the form was made by a page of this server for this visitor."""
    check_site(request)
    if not hmac.compare_digest(sent.encode(), visitor.form_token.encode()):
        raise refusal(web.HTTPForbidden, "This form is not one of this page. Load the page again.")


def check_site(request: web.Request) -> None:
    """403 where a browser says that another site made it send this."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise refusal(web.HTTPForbidden, "This form was sent from another site.")
