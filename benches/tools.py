"""A newer mkfs.erofs than Debian 12's, which compresses with lz4 only: from Debian 13's packages.

They are unpacked into the cache, not installed; the program runs under its own C library.
"""

import subprocess
from pathlib import Path

from benches.trees import MAJOR_SUITE, debian_architecture, sources

_WRAPPER = """\
#!/bin/sh
here=$(dirname "$0")
libraries=$(echo "$here"/usr/lib/*-linux-gnu*)
exec "$libraries"/ld-linux* --library-path "$libraries" "$here"/usr/bin/mkfs.erofs "$@"
"""


def newer_mkfs_erofs(cache: Path) -> Path:
    """The program, fetched where it is not there yet."""
    folder = cache / f"erofs-utils-{MAJOR_SUITE}-{debian_architecture()}"
    program = folder / "mkfs.erofs"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        archive = folder.with_suffix(".tar")
        words = ["--quiet", "--variant=extract", "--include=erofs-utils", MAJOR_SUITE]
        subprocess.run(
            ["mmdebstrap", *words, str(archive), *sources(MAJOR_SUITE, later=False)], check=True
        )
        folder.mkdir(exist_ok=True)
        subprocess.run(
            ["tar", "-C", str(folder), "-xf", str(archive), "--exclude=./dev/*"], check=True
        )
        archive.unlink()
        program.write_text(_WRAPPER)
        program.chmod(0o755)
    return program
