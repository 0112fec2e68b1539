"""Programs of the system that make the demonstration's input: run, and their failure told."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from slipstream.delta.errors import SlipstreamError

# No file in an image is newer: the day of a build is no difference between two releases.
SOURCE_DATE_EPOCH = "1700000000"
OUTPUT_TAIL_CHARS = 1500  # of a program that failed: its last lines say why


def run_tool(words: Sequence[str], *, cwd: Path | None = None, stdin: str = "") -> str:
    """Run a program to its end; returns its standard output.

    Raises SlipstreamError with the end of what it printed if its exit code is not 0.
    """
    environment = {**os.environ, "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH}
    done = subprocess.run(
        words, cwd=cwd, input=stdin, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        tail = (done.stderr or done.stdout).strip()[-OUTPUT_TAIL_CHARS:]
        raise SlipstreamError(f"{words[0]} failed with exit code {done.returncode}", got=tail)
    return done.stdout
