"""What is known of a device, as filters, phases and budgets ask for it."""

from collections.abc import Mapping

import msgspec

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import NAME_CHARS_MAX

SELECTORS = (
    "id",
    "product",
    "channel",
    "hardware",
    "release",
    "counter",
    "group",
    "tag",
    "seen",
    "created",
    "attribute.KEY",
)
_FIELD_OF = {
    **{one: one for one in ("id", "product", "channel", "hardware", "release", "counter", "group")},
    "seen": "seen_at",
    "created": "created_at",
}


def check_selector(text: str) -> None:
    """Raise UsageError unless `text` is a selector."""
    key = text.removeprefix("attribute.")
    known = 0 < len(key) <= NAME_CHARS_MAX if key != text else text in SELECTORS[:-1]
    if not known:
        raise UsageError(f"no selector {text!r}", expected=", ".join(SELECTORS))


class Facts(msgspec.Struct, frozen=True, gc=False):
    """A device as the fleet knows it. Times in seconds since 1970; None: never said.

    A Struct, for a phase that opens looks at all of them: 100,000 are made in a tenth of a
    dataclass's time, and the garbage collector does not visit them.
    """

    id: str
    product: str
    channel: str = "stable"
    hardware: str | None = None
    release: str | None = None
    counter: int | None = None
    booted_root: str | None = None  # hex
    group: str | None = None
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = msgspec.field(default_factory=dict)
    seen_at: int | None = None
    created_at: int = 0

    def values(self, selector: str) -> tuple[str, ...]:
        """All values of a selector, none where nothing is known. KeyError: no such selector."""
        if selector.startswith("attribute."):
            value = self.attributes.get(selector.removeprefix("attribute."))
            return () if value is None else (value,)
        if selector == "tag":
            return tuple(sorted(self.tags))
        found = getattr(self, _FIELD_OF[selector])
        return () if found is None else (str(found),)

    def label(self, selector: str) -> str:
        """The one value of a selector, by which devices are counted; "" where none is known."""
        return next(iter(self.values(selector)), "")
