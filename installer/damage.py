"""What is wrong with one file on the server, said so that a person knows which and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from slipstream.delta.errors import Rejected
from slipstream.installer.response import NotFound, Unusable

# Not the link: asking again does not help.
DAMAGE = (Rejected, NotFound, Unusable)
MEND = (
    "The running release is untouched. Publish the release again, or put the file back from a backup"
    " of the repository"
)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Damage within says of which file it is: its address is only a digest. Raises what it gets."""
    try:
        yield
    except DAMAGE as error:
        error.concerns(what, hint=MEND)
        raise
