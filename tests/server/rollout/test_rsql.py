"""rsql.py: what a filter lets through, what str() makes of it, and what it refuses."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import FILTER_CHARS_MAX, FILTER_DEPTH_MAX
from slipstream.server.rollout.facts import SELECTORS, Facts
from slipstream.server.rollout.rsql import (
    EVERYTHING,
    Comparison,
    Every,
    Filter,
    Some,
    matches,
    parse_filter,
    version_order,
)

DEVICE = Facts(
    id="edge-17",
    product="gateway",
    hardware="rev b",
    release="1.10.2",
    counter=12,
    tags=frozenset({"canary", "lab"}),
    attributes={"site": "berlin", "rssi": "-80", "note": 'say "hi", (you)'},
    seen_at=1_800_000_000,
)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("  ", True),
        ("id==edge-17", True),
        ("id==edge-1", False),
        ("id==edge-*", True),
        ("id==*-17", True),
        ("id==e*e*7", True),
        ("id==edge-17*edge-17", False),  # the ends may not share a letter
        ("id==*", True),
        ("group==*", False),  # no group known
        ("group!=x", True),
        ("group=out=(x,y)", True),
        ("id!=edge-*", False),
        ("product==gateway;channel==stable", True),
        ("product==gateway and channel==beta", False),
        ("channel==beta,product==gateway", True),
        ("channel==beta or product==gateway", True),
        ("id==edge-17,channel==beta;channel==none", True),  # and binds closer
        ("(id==edge-17,channel==beta);channel==none", False),
        ("tag==canary", True),
        ("tag==prod", False),
        ("tag!=canary", False),
        ("tag=in=(prod,lab)", True),
        ("tag=out=(prod,beta)", True),
        ("release=lt=1.9", False),  # 10 is above 9
        ("release<2", True),
        ("release<=1.10.2", True),
        ("release>1.10", True),
        ("release=ge=1.10.2", True),
        ("counter>9", True),
        ("counter=gt=12", False),
        ("seen<1800000001", True),
        ("created==0", True),
        ("attribute.site==berlin", True),
        ("attribute.site==BERLIN", False),
        ("attribute.missing<5", False),
        ("attribute.missing!=5", True),
        ("attribute.rssi<-70", True),
        ("attribute.rssi<-90", False),
        ("hardware=='rev b'", True),
        (r'attribute.note=="say \"hi\", (you)"', True),
        ("id==and", False),
        ("id==or or tag==lab", True),
    ],
)
def test_what_fits(text: str, fits: bool) -> None:
    assert matches(parse_filter(text), DEVICE) is fits


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id", "at its end"),
        ("(id==1", "at its end"),
        ("id==1 and", "at character 7"),
        ("id==1\n;;", "at character 8"),
        ("id==1)", "at character 6"),
        ("==1", "at character 1"),
        ("id==a b", "at character 7"),
        ("id=='open", "at character 5"),
        ("nope==1", "no selector 'nope'"),
        ("attribute.==1", "no selector"),
        ("attribute.KEY" + "x" * 64 + "==1", "no selector"),
        ("id=like=1", "no operator '=like='"),
        ("id=in=x", "takes a list"),
        ("id==(x)", "takes one value"),
        ("id==" + "x" * FILTER_CHARS_MAX, "too long"),
        ("(" * (FILTER_DEPTH_MAX + 1) + "id==1" + ")" * (FILTER_DEPTH_MAX + 1), "too deep"),
    ],
)
def test_what_is_refused(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_filter(text)


def test_as_deep_as_may_be() -> None:
    deep = "(" * FILTER_DEPTH_MAX + "id==1" + ")" * FILTER_DEPTH_MAX

    assert parse_filter(deep) == Comparison("id", "==", ("1",))
    assert parse_filter("id=='((((((((((((((((((((((((((((((((((('") is not None  # not nested


@pytest.mark.parametrize(
    "ascending",
    [
        ["1.9", "1.10", "2"],
        ["-80", "-9", "0", "7", "12"],
        ["", "1"],
        ["1.0", "1.0.1"],
        ["²", "1"],  # a digit that int() does not know
        ["1", "9" * 5000],  # more digits than int() takes
        ["a1", "a02", "a10"],
    ],
)
def test_versions_have_an_order(ascending: list[str]) -> None:
    keys = [version_order(one) for one in ascending]

    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


_SELECTORS = st.sampled_from([*SELECTORS[:-1], "attribute.site", "attribute.a.b/c-d"])
_VALUES = st.text(max_size=8)
_COMPARISONS = st.one_of(
    st.builds(
        Comparison,
        _SELECTORS,
        st.sampled_from(["==", "!=", "=lt=", "=le=", "=gt=", "=ge="]),
        st.tuples(_VALUES),
    ),
    st.builds(
        Comparison,
        _SELECTORS,
        st.sampled_from(["=in=", "=out="]),
        st.lists(_VALUES, min_size=1, max_size=3).map(tuple),
    ),
)
_FILTERS: st.SearchStrategy[Filter] = st.recursive(
    _COMPARISONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Every(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Some(tuple(parts))),
    ),
    max_leaves=5,
)


@given(_FILTERS)
def test_what_was_written_reads_the_same(made: Filter) -> None:
    read = parse_filter(str(made))

    assert parse_filter(str(read)) == read
    assert matches(read, DEVICE) is matches(made, DEVICE)
    if isinstance(made, Comparison):
        assert read == made


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                ["id", "==", "=in=", "(", ")", "a", "'", '"', "\\", " or ", ";", ",", "*", "<"]
            ),
            max_size=25,
        ).map("".join),
    )
)
def test_hostile_text_raises_only_usage_errors(text: str) -> None:
    try:
        found = parse_filter(text)
    except UsageError:
        return
    assert matches(found, DEVICE) in (True, False)
    assert parse_filter(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "id==" + "*a" * 2000,
        "id==1" + ";id==1" * 680,
        "(" * 4096,
        "id==" + '"' + "\\a" * 2000,
        "id=in=(" + "a," * 2000,
        "a" * 4096,
        "=" * 4096,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    device = Facts(id="a" * 5000, product="gateway")
    begin = time.process_time()
    with contextlib.suppress(UsageError):
        matches(parse_filter(text), device)

    assert time.process_time() - begin < 1.0  # 0.02 s here; a pattern of re takes for ever


def test_nothing_lets_everything_through() -> None:
    assert parse_filter("") == EVERYTHING
    assert str(EVERYTHING) == ""
