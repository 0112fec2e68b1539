"""facts.py: what filters, strata and budgets read off a device."""

import pytest

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import NAME_CHARS_MAX
from slipstream.server.rollout.facts import SELECTORS, Facts, check_selector

DEVICE = Facts(
    id="a",
    product="gateway",
    counter=0,
    tags=frozenset({"lab", "canary"}),
    attributes={"site": "berlin", "empty": ""},
)


@pytest.mark.parametrize(
    ("selector", "values"),
    [
        ("id", ("a",)),
        ("channel", ("stable",)),
        ("hardware", ()),
        ("counter", ("0",)),
        ("seen", ()),
        ("created", ("0",)),
        ("tag", ("canary", "lab")),
        ("attribute.site", ("berlin",)),
        ("attribute.empty", ("",)),
        ("attribute.other", ()),
    ],
)
def test_values_and_label(selector: str, values: tuple[str, ...]) -> None:
    assert DEVICE.values(selector) == values
    assert DEVICE.label(selector) == (values[0] if values else "")


def test_every_selector_is_known_to_both() -> None:
    for selector in SELECTORS:
        check_selector(selector)
        DEVICE.values(selector)


@pytest.mark.parametrize(
    "text", ["", "ID", "attribute", "attribute.", "attribute." + "k" * (NAME_CHARS_MAX + 1), "x"]
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no selector"):
        check_selector(text)
