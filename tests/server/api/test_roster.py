"""CSV files of devices, as a table."""

import pytest
from aiohttp import web

from slipstream.server.api.registration import NewDevice
from slipstream.server.api.roster import parse_roster

GOOD = """id,product,channel,group,tags,attribute.site
d1,gateway,beta,lab,canary fast,"Berlin, north"
d2,gateway,,,,

d3,gateway,stable,,,x
"""
BAD = [
    ("", "column id is missing", "line 1"),
    ("id\nd1\n", "column product is missing", "line 1"),
    ("id,product,size\nd1,p,1\n", "no column 'size'", "line 1"),
    ("id,product,id\nd1,p,d1\n", "stands twice", "line 1"),
    ("id,product\n", "got 0", None),
    ("id,product\nd1\n", "expected 2 cells, got 1", "line 2"),
    ("id,product\nd1,p\n../x,p\n", "expected letters, digits and", "line 3, id"),
    ("id,product\nd1,\n", "it is missing", "line 2, product"),
    ("id,product\nd1,p\nd2,p\nd1,p\n", "the same id as in line 2", "line 4, id"),
    ('id,product\n"d1,p\n', "not CSV", "line 2"),
    (
        "id,product,attribute.\nd1,p,x\n",
        "a key: too short; expected at least 1 character",
        "line 2, attributes",
    ),
]


def test_rows():
    rows = dict(parse_roster(GOOD, NewDevice))
    assert list(rows) == [2, 3, 5]
    site = {"site": "Berlin, north"}
    assert rows[2] == NewDevice("d1", "gateway", "beta", "lab", ("canary", "fast"), site)
    assert rows[3] == NewDevice("d2", "gateway")


@pytest.mark.parametrize("text, reason, field", BAD)
def test_what_is_wrong_is_named(text, reason, field):
    with pytest.raises(web.HTTPBadRequest) as caught:
        parse_roster(text, NewDevice)
    assert reason in caught.value.text
    named = f'"field": "{field}' if field else '"field": null'
    assert named in caught.value.text
