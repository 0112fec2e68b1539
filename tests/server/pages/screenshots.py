"""docs/screenshots: every page of the synthetic fleet, as Chromium draws it. `make screenshots`."""

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.server.pages import synthetic
from tests.server.pages.browser import Browser, browsing, serving

FOLDER = Path(__file__).parents[3] / "docs" / "screenshots"
COLOURS = 255  # a picture of flat colours and text needs no more: a quarter of the size
BYTES_MAX = 150_000
PAGES = {
    "fleet": "/",
    "devices": "/devices?filter=tag%3D%3Dcanary",
    "device": f"/devices/{synthetic.SHOWN}",
    "rollouts": "/rollouts",
    "rollout": "/rollouts/3",
    "rollout-paused": "/rollouts/4",
    "releases": "/releases",
    "approvals": "/approvals",
    "audit": "/audit?verify=1",
}
DARK = ("fleet", "rollout")
PHONE = ("fleet", "rollout")


def take(browser: Browser, folder: Path) -> None:
    """Every page in light, some in dark and on a phone, and the form with its simulation."""
    browser.show()
    for name, path in PAGES.items():
        browser.open(path)
        keep(browser, folder / f"{name}.png", 1280)
    fill_in(browser)
    keep(browser, folder / "new-rollout.png", 1500)
    browser.show(dark=True)
    for name in DARK:
        browser.open(PAGES[name])
        keep(browser, folder / f"{name}-dark.png", 1280)
    browser.show(width=390, height=844)
    for name in PHONE:
        browser.open(PAGES[name])
        keep(browser, folder / f"{name}-phone.png", 1400)


def fill_in(browser: Browser) -> None:
    """Write a rollout into the form, up to its preview."""
    browser.open("/rollouts/new")
    browser.run(
        "const set = (id, value) => { document.getElementById(id).value = value; };"
        "set('name', 'november 2.4'); set('release', 'gateway/2.4');"
        "set('suppose_boot', '4');"
        "document.getElementById('draft').dispatchEvent(new Event('input', {bubbles: true}));"
    )
    browser.until("document.querySelector('#beside .curves')", 60)


def keep(browser: Browser, path: Path, height: int) -> None:
    """Write the page as a small PNG."""
    with Image.open(io.BytesIO(browser.picture(height))) as image:
        flat = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        flat.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    if size > BYTES_MAX:
        sys.exit(f"{path.name} is larger than {BYTES_MAX:,} bytes")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="slipstream-pages-") as made:
        main_at(Path(made) / "repo")


def main_at(repo: Path) -> None:
    with serving(repo) as (url, token), browsing(url, token) as browser:
        take(browser, FOLDER)


if __name__ == "__main__":
    main()
