"""A headless Chromium (Debian's) that looks at the pages of a real server process."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

AXE = Path(__file__).parents[2] / "vendor" / "axe-core" / "axe.min.js"


@dataclass
class Browser:
    """One window, logged in at a server."""

    driver: Any
    url: str
    token: str = ""

    def open(self, path: str) -> None:
        """Load a page whole, scripts included."""
        self.driver.get(self.url + path)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: str, timeout_s: float = 15) -> None:
        """Wait for a script's expression to hold."""
        WebDriverWait(self.driver, timeout_s, 0.1).until(
            lambda _driver: self.run(f"return Boolean({condition})"), condition
        )

    def show(self, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Look at pages in light or dark, on a screen of a size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def tab(self) -> None:
        """Press the key that goes on to the next control."""
        for kind in ("rawKeyDown", "keyUp"):
            self._command("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)

    def write(self, name: str, text: str) -> None:
        """Fill a field in, as a person would."""
        self.run(
            "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
            "one.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            text,
        )

    def script(self, *, on: bool) -> None:
        """Whether pages may run scripts."""
        self._command("Emulation.setScriptExecutionDisabled", value=not on)

    def picture(self, height_max: int = 2000) -> bytes:
        """The page as PNG, down to `height_max` pixels."""
        size = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], height_max), "scale": 1}
        taken = self._command(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )
        return base64.b64decode(taken["data"])

    def problems(self) -> list[str]:
        """What the console has said since it was asked last, but for what is only told."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] != "INFO"]

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps somebody out (WCAG 2.2, levels A and AA)."""
        self.run(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a',"
            " 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations']})"
            ".then(found => done(found.violations), error => done([{id: String(error), nodes: []}]))"
        )
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for one in found
            for node in one["nodes"] or [{"html": "", "failureSummary": ""}]
        ]

    def _command(self, name: str, **arguments: object) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)


@contextmanager
def browsing(url: str, password: str) -> Iterator[Browser]:
    """A browser that sends the operator's token as its password."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for word in (
        "--headless=new",
        "--no-sandbox",  # tests run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--disable-background-networking",
        "--hide-scrollbars",
        "--font-render-hinting=none",
        "--lang=en",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        sent = base64.b64encode(f"operator:{password}".encode()).decode()
        driver.execute_cdp_cmd("Network.enable", {})
        headers = {"headers": {"Authorization": f"Basic {sent}"}}
        driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", headers)
        yield Browser(driver, url)
    finally:
        driver.quit()


@contextmanager
def serving(repo: Path) -> Iterator[tuple[str, str]]:
    """The synthetic fleet (synthetic.py) served by a process of its own: URL and token."""
    words = [sys.executable, "-m", "tests.server.pages.synthetic", str(repo), "127.0.0.1:0"]
    log = repo.parent / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, log.read_text()
        yield url, (repo / "server" / "operator.token").read_text().strip()
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(30) == 0, log.read_text()
