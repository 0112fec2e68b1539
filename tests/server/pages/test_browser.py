"""The pages in a real browser, on a real server process with 10,000 devices.

One server and one browser for all of it: they are most of the time.
"""

import base64
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.server.pages.browser import Browser, browsing, serving
from tests.server.pages.synthetic import SHOWN

PAGES = {
    "/": "Fleet",
    "/devices?filter=id%3D%3Ddoor-0000%2A": "Devices",
    f"/devices/{SHOWN}": SHOWN,
    "/rollouts": "Rollouts",
    "/rollouts/3": "autumn 2.4",
    "/rollouts/4": "edge 2.5",
    "/rollouts/new": "Start a rollout",
    "/releases": "Releases",
    "/approvals": "Approvals",
    "/audit": "Audit",
}
# What can be pressed or written into, and is seen.
_CONTROLS = """
return [...document.querySelectorAll('a[href], button, input, select, textarea, summary')]
    .filter(one => one.type !== 'hidden' && one.checkVisibility()).length;
"""
_FOCUSED = """
const one = document.activeElement;
if (!one || one === document.body) return null;
const at = one.getBoundingClientRect(), style = getComputedStyle(one);
window.reached ??= new Set();
window.reached.add(one);
return {
    control: one.matches('a[href], button, input, select, textarea, summary'),
    seen: at.width > 0 && at.height > 0 && style.outlineStyle !== 'none',
    what: one.outerHTML.slice(0, 120),
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    repo = tmp_path_factory.mktemp("pages") / "repo"
    with serving(repo) as (url, token), browsing(url, token) as opened:
        opened.token = token
        yield opened


def send(browser: Browser, path: str, **fields: object) -> None:
    """Submit a form from elsewhere: another operator."""
    login = base64.b64encode(f"x:{browser.token}".encode()).decode()
    token = browser.run("return document.querySelector('[name=form_token]').value")
    request = urllib.request.Request(
        browser.url + path,
        urlencode({"form_token": token, **fields}).encode(),
        {"Authorization": f"Basic {login}"},
    )
    urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_load_without_a_complaint_and_keep_nobody_out(browser, dark):
    browser.show(dark=dark)
    # The dark colours are the same everywhere: pages that have all parts stand for the others.
    for path in ("/", "/rollouts/3", "/rollouts/new") if dark else PAGES:
        browser.open(path)
        assert browser.run("return document.querySelector('h1').innerText").startswith(PAGES[path])
        assert browser.barriers() == [], path
        assert browser.problems() == [], path


def test_nothing_is_wider_than_a_phone(browser):
    browser.show(width=390, height=844)
    for path in PAGES:
        browser.open(path)
        assert browser.run("return document.documentElement.scrollWidth") == 390, path
    browser.show()


def test_the_button_that_logs_out_stands_inside_the_header(browser):
    for width in (1200, 390):
        browser.show(width=width)
        browser.open("/rollouts")
        # This visitor has the installation's token, and no session to end.
        room = browser.run("""
            document.querySelector('.who').insertAdjacentHTML('beforeend',
                '<form><input type="hidden"><button id="out">Log out</button></form>');
            const out = document.getElementById('out').getBoundingClientRect();
            const top = document.querySelector('.top').getBoundingClientRect();
            const words = document.querySelector('.who > p').getBoundingClientRect();
            return [top.bottom - out.bottom, (out.top + out.bottom - words.top - words.bottom) / 2];
        """)
        assert room[0] >= 8, width
        assert abs(room[1]) < 2, width
    browser.show()


@pytest.mark.parametrize("path", ["/rollouts/3", "/rollouts/new"])
def test_the_keyboard_reaches_every_control_and_shows_where_it_is(browser, path):
    browser.open(path)
    controls = browser.run(_CONTROLS)
    reached = 0
    for _ in range(controls + 40):  # scrolled tables take the focus, too
        browser.tab()
        found = browser.run(_FOCUSED)
        if found is None:
            break
        assert found["seen"], found
        reached += found["control"]
    assert reached >= controls
    assert browser.run("return window.reached.size") >= controls


def test_what_another_operator_does_is_seen_and_said_without_a_reload(browser):
    browser.open("/rollouts/3")
    browser.run("window.same = true; document.getElementById('remark').focus();")
    browser.until("document.getElementById('lamp').dataset.on === 'true'")
    # The page looks once when its stream begins; what is to be seen is the news after it.
    version = browser.run("return document.querySelector('[name=version]').value")
    send(browser, "/rollouts/3/pause", version=version, remark="the plant is closed")
    browser.until("document.getElementById('headline').innerText.includes('Paused')")
    browser.until("document.getElementById('said').innerText.includes('the plant is closed')")
    browser.until("document.getElementById('act-resume')")
    assert browser.run("return window.same")  # it is still the same page
    assert browser.run("return document.activeElement.id") == "remark"
    assert browser.problems() == []


def test_the_form_shows_what_it_would_do_while_it_is_filled_in(browser):
    browser.open("/rollouts/new")
    browser.write("release", "gateway/2.4")
    browser.until("document.querySelector('#beside .curves')", 30)
    text = browser.run("return document.getElementById('beside').innerText")
    assert "devices match" in text
    assert "It would" in text
    browser.write("filter", "attribute.site==oslo")
    browser.until("document.getElementById('beside').innerText.includes('of 9,375')", 30)
    browser.until("!document.getElementById('beside').innerText.startsWith('9,375')", 30)
    assert "/rollouts/new" in browser.driver.current_url  # the token of the form is in no address
    assert "form_token" not in browser.driver.current_url
    assert browser.problems() == []


def test_without_script_the_pages_are_whole(browser):
    browser.script(on=False)
    try:
        browser.open("/rollouts/3")
        assert "autumn 2.4" in browser.driver.page_source
        assert "Margin to the abort rules" in browser.driver.page_source
        assert 'id="lamp" hidden' in browser.driver.page_source
    finally:
        browser.script(on=True)
