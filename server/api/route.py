"""One row of the table of calls, and what its path is made of. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec

from slipstream.delta.limits import API_BODY_BYTES_MAX
from slipstream.server.access import Deed
from slipstream.server.api.call import Change, Look
from slipstream.server.wire import Body, DeviceId, Name

PREFIX: Final = "/api/v1"
_PLACE = re.compile(r"\{(\w+)\}")
_NAME = r"[A-Za-z0-9._:@+~-]{1,64}"
_NUMBER = r"[0-9]{1,15}"
_Number = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
_Label = Annotated[str, msgspec.Meta(min_length=1, max_length=96, pattern=r"^[^\x00/]+$")]
# What stands between slashes: how it is spelled in a path, and its type.
PLACES: Final[Mapping[str, tuple[str, Any]]] = {
    "device": (r"[A-Za-z0-9._:@+-]{1,128}", DeviceId),
    "rollout": (_NUMBER, _Number),
    "token": (_NUMBER, _Number),
    "webhook": (_NUMBER, _Number),
    "user": (_NAME, Name),
    "product": (_NAME, Name),
    "channel": (_NAME, Name),
    "release": (_NAME, Name),
    "label": (r"[^/]{1,288}", _Label),
}
# What a call may refuse with, beside what every call does.
GONE: Final = frozenset({404})
CLASH: Final = frozenset({409})


class Nothing(Body, frozen=True):
    """No query, or a body that need not be there."""


@dataclass(frozen=True, slots=True)
class Route:
    """A call. Its handler's docstring describes it."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str  # below PREFIX
    deed: Deed | None  # None: for anybody
    name: str  # of the act in the audit log, and of the operation in the OpenAPI document
    summary: str
    look: Look | None = None
    change: Change | None = None
    query: type = Nothing
    body: type | None = None
    answer: Any = None  # None: 204, nothing
    status: int = 200
    shape: Any = None  # of the body, where the handler parses it itself (`body` is bytes)
    tagged: bool = False  # its answer has an ETag
    versioned: bool = False  # takes If-Match, and its answer has an ETag
    text_body: str | None = None  # the content type of a body that is no JSON
    body_bytes_max: int = API_BODY_BYTES_MAX
    refuses: frozenset[int] = field(default_factory=frozenset)  # statuses besides everybody's

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(_PLACE.findall(self.path))

    @property
    def pattern(self) -> str:
        """The path as aiohttp's router takes it."""
        return PREFIX + _PLACE.sub(lambda found: f"{{{found[1]}:{PLACES[found[1]][0]}}}", self.path)
