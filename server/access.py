"""Who may do what: roles, deeds, and the one function that compares them. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slipstream.delta.errors import SlipstreamError

INSTALLATION = "installation"  # who acts with the token of the installation


class Role(StrEnum):
    """Each may do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return tuple(Role).index(self)


class Deed(StrEnum):
    """What a call does, as far as permission goes."""

    SEE = "see"  # the fleet, releases, rollouts
    KEEP_OWN = "keep_own"  # one's own session, password and tokens
    MANAGE_DEVICES = "manage_devices"
    ROLL_OUT = "roll_out"  # create, start, pause, resume, next phase, abort
    GUIDE = "guide"  # waypoints of releases, budgets of the fleet
    APPROVE = "approve"
    AUDIT = "audit"
    ADMINISTER = "administer"  # users, others' tokens, webhooks


WHO_MAY: Final[dict[Deed, Role]] = {
    Deed.SEE: Role.VIEWER,
    Deed.KEEP_OWN: Role.VIEWER,
    Deed.MANAGE_DEVICES: Role.OPERATOR,
    Deed.ROLL_OUT: Role.OPERATOR,
    Deed.GUIDE: Role.OPERATOR,
    Deed.APPROVE: Role.APPROVER,
    Deed.AUDIT: Role.APPROVER,
    Deed.ADMINISTER: Role.ADMIN,
}


class Forbidden(SlipstreamError):
    """Known, and not allowed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `session`: digest of the browser's session; None for a token.

    `token`: the number of an API token; None for a session, and for the installation's token.
    `expires_at`: when that API token ends, in seconds since 1970; None: it does not.
    """

    actor: str
    role: Role
    session: bytes | None = None
    token: int | None = None
    expires_at: int | None = None


def authorise(identity: Identity, deed: Deed) -> None:
    """Raise Forbidden unless the caller's role allows the deed."""
    needed = WHO_MAY[deed]
    if identity.role.rank < needed.rank:
        raise Forbidden(
            f"{identity.actor} may not do this", expected=f"role {needed.value}", got=identity.role
        )


def authorise_approval(identity: Identity, author: str) -> None:
    """Raise Forbidden where somebody decides on what they wrote themselves: four eyes see more.

    The installation's token is no person: whoever wrote the rollout may hold it as well.
    """
    authorise(identity, Deed.APPROVE)
    if identity.actor == author:
        raise Forbidden("the author of a rollout may not decide on it", expected="another approver")
    if identity.actor == INSTALLATION:
        raise Forbidden(
            "the installation's token may not decide on a rollout", expected="a user who approves"
        )


def authorise_author(identity: Identity) -> None:
    """Raise Forbidden where nobody would know who wrote what another has to approve."""
    authorise(identity, Deed.ROLL_OUT)
    if identity.actor == INSTALLATION:
        raise Forbidden(
            "rollouts need another person's approval here, so they are written by a user",
            expected="a user's token or session",
            got="the installation's token",
        )


def authorise_revocation(identity: Identity, token: int, user: str) -> None:
    """Raise Forbidden unless the caller may revoke the token of that number, which is `user`'s.

    An API token that was stolen must not be able to take those away that would revoke it.
    """
    if identity.token is not None and identity.token != token:
        raise Forbidden(
            "an API token may revoke itself alone",
            expected="a session, or the installation's token",
        )
    if user != identity.actor:
        authorise(identity, Deed.ADMINISTER)


def latest_end(identity: Identity, wanted: int | None) -> int | None:
    """When a new token ends that the caller makes: no later than the API token it is made with.

    Seconds since 1970; None: never.
    """
    if wanted is None or identity.expires_at is None:
        return identity.expires_at if wanted is None else wanted
    return min(wanted, identity.expires_at)


def lesser(one: Role, other: Role) -> Role:
    """What a token may do: its own role, or its user's where that has fallen below."""
    return min(one, other, key=lambda role: role.rank)
