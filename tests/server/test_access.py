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
