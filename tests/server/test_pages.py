"""The page at /: what it says, and to whom."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from slipstream.server import pages
from slipstream.server.pages import describe_age, describe_device, describe_size
from slipstream.server.store.devices import Device
from slipstream.server.store.reports import Report


def basic(password):
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


LOGIN = basic("an operator's token of enough length")
NEW = Device("d1", "gateway", "stable", 1, None, None, None, None, None, None, None)
SEEN = Device("d1", "gateway", "stable", 1, 940, "", "1.0", 1, None, False, "[]")
TRIAL = Device("d1", "gateway", "stable", 1, 940, "", "2.0", 2, None, True, "[]")


def report(kind):
    return Report("d1", "k", kind, "2.0", 2, None, "why", "{}", 1, 880)


@pytest.mark.parametrize(
    "device, kind, runs, mark, seen, words",
    [
        (NEW, None, "unknown", "", "never", "none"),
        (SEEN, None, "1.0", "good", "60 seconds ago", "none"),
        (TRIAL, "installed", "2.0, on trial", "trial", "60 seconds ago", "Installed 2.0"),
        (SEEN, "fell_back", "1.0", "bad", "60 seconds ago", "Fell back from 2.0, 2 minutes ago"),
        (SEEN, "failed", "1.0", "bad", "60 seconds ago", "Could not install 2.0, 2 minutes ago"),
        (SEEN, "confirmed", "1.0", "good", "60 seconds ago", "Confirmed 2.0, 2 minutes ago"),
    ],
)
def test_a_device_in_words(device, kind, runs, mark, seen, words):
    row = describe_device(device, kind and report(kind), 1000)
    assert (row.runs, row.mark, row.seen) == (runs, mark, seen)
    assert row.report.startswith(words)
    assert row.reason == ("why" if kind else "")


@pytest.mark.parametrize(
    "age, words",
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "60 seconds ago"),
        (120, "2 minutes ago"),
        (7199, "119 minutes ago"),
        (7200, "2 hours ago"),
        (200_000, "2 days ago"),
    ],
)
def test_ages(age, words):
    assert describe_age(age) == words


@pytest.mark.parametrize(
    "size, words",
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (5 * 10**12, "5.0 TB"),
    ],
)
def test_sizes(size, words):
    assert describe_size(size) == words


class _Tags(HTMLParser):
    """Refuses a page whose elements are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parse(text):
    page = _Tags()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_the_page_needs_the_operators_password(with_fleet):
    async def test(fleet):
        for headers in ({}, basic("wrong")):
            response = await fleet.client.get("/", headers=headers)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert (await fleet.client.get("/style.css")).content_type == "text/css"

    with_fleet(test)


def test_an_empty_fleet(with_fleet):
    async def test(fleet):
        page = parse(await (await fleet.client.get("/", headers=LOGIN)).text())
        assert "No devices here" in page.text
        assert "Nothing is published yet" in page.text

    with_fleet(test)


def test_devices_and_releases_without_script_and_without_markup_of_theirs(with_fleet, folder):
    folder.release("1.0", 1)
    folder.full("1.0", "rootfs", "1" * 64, b"x" * 1500)
    folder.release("2.0", 2)
    folder.delta("2.0", "rootfs", "1" * 64, "2" * 64, 30_000)
    folder.write()

    async def test(fleet):
        token = await fleet.add("door-7")
        await fleet.poll(token, "door-7", release="1.0", counter=1)
        evil = "<script>alert(1)</script>"
        await fleet.report(token, "door-7", kind="fell_back", release="2.0", reason=evil)
        response = await fleet.client.get("/", headers=LOGIN)
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-store"
        page = parse(await response.text())
        tags = {tag for tag, _ in page.seen}
        assert "script" not in tags
        assert evil in page.text  # as text
        for words in (
            "door-7",
            "Fell back from 2.0, just now",
            "rootfs 1.5 kB",
            "rootfs from 1.0: 30.0 kB",
        ):
            assert words in page.text, words

    with_fleet(test)


def test_a_repository_that_cannot_be_read_or_expired_is_said(with_fleet, folder):
    async def test(fleet):
        (folder.public / "metadata" / "timestamp.json").unlink()
        page = parse(await (await fleet.client.get("/", headers=LOGIN)).text())
        assert "timestamp.json cannot be read" in page.text
        folder.expires = "2020-01-01T00:00:00Z"
        folder.write()
        page = parse(await (await fleet.client.get("/", headers=LOGIN)).text())
        assert "expired at 2020-01-01T00:00:00Z" in page.text

    with_fleet(test)


def test_on_a_phone_every_cell_names_its_column() -> None:
    folder = Path(pages.__file__).with_name("pages")
    page = (folder / "index.html").read_text(encoding="utf-8")
    columns = re.findall(r'<th scope="col">([^<]+)</th>', page)
    labels = re.findall(r'<td data-label="([^"]+)"', page)
    assert "<td>" not in page
    assert labels == [name for name in columns if name not in {"Device", "Release"}]
    assert "attr(data-label)" in (folder / "style.css").read_text(encoding="utf-8")
