"""Runs the recipes of the corpus: a line of shell with its inputs in variables."""

import os
import subprocess
from pathlib import Path

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.images import SOURCE_DATE_EPOCH

# mke2fs of Debian 12 has its own variable for the date; the others read SOURCE_DATE_EPOCH.
FIXED_TIME = {
    "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
    "E2FSPROGS_FAKE_TIME": SOURCE_DATE_EPOCH,
    "TZ": "UTC",
    "LC_ALL": "C",
}


def run(script: str, *, owners: Path, **variables: object) -> None:
    """Run a script with sh -e.

    Without root it runs under fakeroot, which keeps owners and devices of the tree `owners` in a
    file beside it, so that a later script sees what an earlier one made.
    """
    words = ["sh", "-ec", script]
    if os.geteuid() != 0:
        state = owners.with_suffix(".owners")
        state.touch()
        words = ["fakeroot", "-i", str(state), "-s", str(state), *words]
    given = {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**os.environ, **FIXED_TIME, **given},
        check=False,
    )
    if done.returncode:
        raise SlipstreamError(
            f"a recipe failed with exit code {done.returncode}",
            where=script,
            got=(done.stderr or done.stdout).strip()[-1500:],
        )
