"""The health command of the demonstration's device: is what booted fit for use?

With Debian images it runs the application that stands in the booted root file system. With any
other image it looks whether the booted slot still begins with a file system (its first 64 KiB are
not all zero). Exit code 0: healthy.
"""

import json
import subprocess
import sys
from pathlib import Path

HEAD_BYTES = 65536


def main(run: Path) -> int:
    """Judge the release that the files in `run` say is running."""
    application = run / "gateway"
    if application.exists():
        return subprocess.run(["sh", str(application)], check=False).returncode
    slot = (run / "slot").read_text().strip()
    offset = json.loads((run.parent / "layout.json").read_text())[slot]
    with (run.parent / "disk.img").open("rb") as disk:
        disk.seek(offset)
        if any(disk.read(HEAD_BYTES)):
            print("the root partition begins with data")
            return 0
    print("the root partition's first 64 KiB are zero: no file system to mount", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
