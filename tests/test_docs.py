"""The documents say what the code is: commands, settings, files."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from slipstream.cli.rollout import rollout
from slipstream.installer.doctor.finding import Check

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("script", ["cli-docs", "rollout-tables"])
def test_what_is_written_from_the_code_is_current(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package",
    [
        "delta",
        "delta/filesystem",
        "installer",
        "installer/boot",
        "installer/doctor",
        "server",
        "server/api",
        "server/ddi",
        "server/deltas",
        "server/pages",
        "server/rollout",
        "server/fleet",
        "server/store",
    ],
)
def test_every_file_is_on_the_map(package: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    heading = text.index(f"### {package}/\n")
    section = text[heading : text.find("###", heading + 4)]
    files = [path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]

    assert files
    assert [name for name in sorted(files) if f"| {name} |" not in section] == []


def test_the_simulation_on_the_page_is_what_it_prints(tmp_path: Path) -> None:
    page = (ROOT / "docs/rollouts.md").read_text()
    begin = page.index("    slipstream rollout simulate --name spring")
    command, shown = page[begin : page.index("![Devices")].split("\n\n", 1)
    _, _, *words = shlex.split(command.replace("\\\n", " "))
    picture = tmp_path / "rollout.svg"
    words[words.index("rollout.svg")] = str(picture)

    told = CliRunner().invoke(rollout, words, catch_exceptions=False).output

    assert shown.rstrip() == textwrap.indent(told, "    ").rstrip()
    assert picture.read_text() == (ROOT / "docs/rollout.svg").read_text()


def test_every_finding_has_its_paragraph() -> None:
    text = (ROOT / "docs/doctor.md").read_text()

    assert [check for check in Check if f"| `{check}` |" not in text] == []


def test_every_decision_has_its_number_once() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs/adr").glob("*.md")]

    assert sorted(numbers) == [f"{n:04}" for n in range(1, len(numbers) + 1)]


def test_relative_links_lead_somewhere() -> None:
    broken = [
        (page.name, link)
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
        if not (page.parent / link).exists()
    ]

    assert broken == []
