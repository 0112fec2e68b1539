"""Who looks at a page, and what they may do there.

Every form carries a token that only the pages know: another site can make a browser send a form,
and its password with it, but cannot read the token.
"""

import hashlib
import hmac
from dataclasses import dataclass

from aiohttp import web

from slipstream.server.access import INSTALLATION, WHO_MAY, Deed, Identity, Role, authorise
from slipstream.server.operators import check_operator
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
        """Whether they may approve what `author` wrote."""
        return self.may(Deed.APPROVE) and self.identity.actor != author


def greet(request: web.Request, token_digest: bytes) -> Visitor:
    """The visitor who sent the operator's token as password; 401 otherwise."""
    check_operator(request, token_digest, basic=True)
    token = hmac.new(token_digest, b"forms of the pages", hashlib.sha256).hexdigest()
    return Visitor(Identity(INSTALLATION, Role.ADMIN), token)


def check_form(request: web.Request, visitor: Visitor, sent: str) -> None:
    """403 unless the form was made by a page of this server for this visitor."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if site != "same-origin" or not hmac.compare_digest(sent.encode(), visitor.form_token.encode()):
        raise refusal(web.HTTPForbidden, "This form is not one of this page. Load the page again.")
