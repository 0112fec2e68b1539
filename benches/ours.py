"""Slipstream among the contenders: each profile, with the memory that a device may use."""

import hashlib
import sys
from functools import cache
from pathlib import Path

from benches.contest import Contender

ROOT = Path(__file__).parent.parent
_ENGINE = ("delta", "server")
# Imports what a device imports, no more: its memory is a device's memory.
_DECODE = """
import sys
from pathlib import Path
from slipstream.server.patch import apply_payload
source, payload, output = sys.argv[1:]
apply_payload(Path(source) if source else None, Path(payload), Path(output))
assert "numpy" not in sys.modules and "sqlalchemy" not in sys.modules
"""


@cache
def version() -> str:
    """Digest of the code that makes and applies payloads: other changes leave the results valid."""
    sources = hashlib.sha256()
    for path in sorted(path for part in _ENGINE for path in (ROOT / part).rglob("*.py")):
        sources.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return f"sources {sources.hexdigest()[:12]}"


def slipstream(
    name: str, title: str, *options: str, full: bool = False, quick: bool = True
) -> Contender:
    """`slipstream diff` with these options; `full` makes the payload that needs no source."""

    def encode(source: Path, target: Path, payload: Path) -> list[str]:
        images = ["-" if full else str(source), str(target)]
        words = [sys.executable, "-m", "slipstream", "diff", *images, "-o", str(payload)]
        return [*words, *options]

    def decode(source: Path, payload: Path, made: Path) -> list[str]:
        return [sys.executable, "-c", _DECODE, "" if full else str(source), str(payload), str(made)]

    return Contender(name, title, version, encode, decode, quick=quick)


OURS = {
    contender.name: contender
    for contender in (
        slipstream(
            "ours-small",
            "slipstream small, 512 MiB",
            *("--profile", "small", "--memory", "512MiB"),
        ),
        # The default memory is 96 MiB: the same payload as the next one's.
        slipstream("ours-balanced", "slipstream balanced", "--profile", "balanced", quick=False),
        slipstream(
            "ours-balanced-96",
            "slipstream balanced, 96 MiB",
            *("--profile", "balanced", "--memory", "96MiB"),
        ),
        slipstream("ours-fast", "slipstream fast", "--profile", "fast"),
        slipstream(
            "ours-full", "slipstream, no source", "--profile", "balanced", full=True, quick=False
        ),
    )
}
