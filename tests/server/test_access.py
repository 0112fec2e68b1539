"""The table of who may do what."""

import pytest

from slipstream.server.access import (
    INSTALLATION,
    WHO_MAY,
    Deed,
    Forbidden,
    Identity,
    Role,
    authorise,
    authorise_approval,
    authorise_author,
    authorise_revocation,
    latest_end,
    lesser,
)


def test_every_deed_has_a_role():
    assert set(WHO_MAY) == set(Deed)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("deed", Deed)
def test_each_role_may_what_those_before_it_may(deed, role):
    needed = WHO_MAY[deed]
    if list(Role).index(role) >= list(Role).index(needed):
        authorise(Identity("somebody", role), deed)
    else:
        with pytest.raises(Forbidden, match=f"expected role {needed.value}, got"):
            authorise(Identity("somebody", role), deed)


def test_four_eyes():
    authorise_approval(Identity("bea", Role.APPROVER), "ada")
    with pytest.raises(Forbidden, match="author"):
        authorise_approval(Identity("ada", Role.ADMIN), "ada")
    with pytest.raises(Forbidden, match="approver"):
        authorise_approval(Identity("bea", Role.OPERATOR), "ada")
    # Whoever wrote it may hold the installation's token as well.
    with pytest.raises(Forbidden, match="installation"):
        authorise_approval(Identity(INSTALLATION, Role.ADMIN), "ada")
    authorise_author(Identity("ada", Role.OPERATOR))
    with pytest.raises(Forbidden, match="by a user"):
        authorise_author(Identity(INSTALLATION, Role.ADMIN))
    with pytest.raises(Forbidden, match="operator"):
        authorise_author(Identity("ada", Role.VIEWER))


def test_a_token_is_never_above_its_user():
    assert lesser(Role.VIEWER, Role.ADMIN) is lesser(Role.ADMIN, Role.VIEWER) is Role.VIEWER


def test_a_token_ends_no_later_than_the_one_it_is_made_with():
    session, lasting = Identity("ada", Role.ADMIN, b"s"), Identity("ada", Role.ADMIN, token=1)
    ending = Identity("ada", Role.ADMIN, token=1, expires_at=50)
    for who in (session, lasting):
        assert [latest_end(who, wanted) for wanted in (None, 40, 60)] == [None, 40, 60]
    assert [latest_end(ending, wanted) for wanted in (None, 40, 60)] == [50, 40, 50]


def test_who_revokes_which_token():
    token = Identity("ada", Role.ADMIN, token=1)
    authorise_revocation(token, 1, "ada")
    for number, user in ((2, "ada"), (2, "bea")):
        with pytest.raises(Forbidden, match="itself alone"):
            authorise_revocation(token, number, user)
    authorise_revocation(Identity("ada", Role.VIEWER, b"s"), 2, "ada")
    with pytest.raises(Forbidden, match="admin"):
        authorise_revocation(Identity("ada", Role.APPROVER, b"s"), 2, "bea")
    authorise_revocation(Identity("ada", Role.ADMIN, b"s"), 2, "bea")
    authorise_revocation(Identity(INSTALLATION, Role.ADMIN), 2, "bea")
