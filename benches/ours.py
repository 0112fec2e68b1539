"""Slipstream among the contenders: each profile, with the memory that a device may use."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benches.contest import Contender

ROOT = Path(__file__).parent.parent
# Imports what a device imports, no more: its memory is a device's memory.
_DECODE = """
import sys
from pathlib import Path
from slipstream.server.patch import apply_payload
source, payload, output = sys.argv[1:]
apply_payload(Path(source) if source else None, Path(payload), Path(output))
assert "numpy" not in sys.modules and "sqlalchemy" not in sys.modules
"""


def version() -> str:
    """The commit, and whether files differ from it."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def _diff(
    profile: str, memory: str | None, *, full: bool
) -> Callable[[Path, Path, Path], list[str]]:
    def command(source: Path, target: Path, payload: Path) -> list[str]:
        images = ["-" if full else str(source), str(target)]
        words = [sys.executable, "-m", "slipstream", "diff", *images, "-o", str(payload)]
        return [*words, "--profile", profile, *(["--memory", memory] if memory else [])]

    return command


def _patch(*, full: bool) -> Callable[[Path, Path, Path], list[str]]:
    def command(source: Path, payload: Path, made: Path) -> list[str]:
        return [sys.executable, "-c", _DECODE, "" if full else str(source), str(payload), str(made)]

    return command


def _ours(
    name: str, title: str, profile: str, memory: str | None, *, full: bool = False
) -> Contender:
    return Contender(name, title, version, _diff(profile, memory, full=full), _patch(full=full))


OURS = {
    contender.name: contender
    for contender in (
        _ours("ours-small", "slipstream small, 512 MiB", "small", "512MiB"),
        _ours("ours-balanced", "slipstream balanced", "balanced", None),
        _ours("ours-balanced-96", "slipstream balanced, 96 MiB", "balanced", "96MiB"),
        _ours("ours-fast", "slipstream fast", "fast", None),
        _ours("ours-full", "slipstream balanced, no source", "balanced", None, full=True),
    )
}
