"""The Debian pair, built as the demonstration builds it, under every benchmark of this folder.

    python benches/debian.py [--large] [--peers xdelta3,zstd | none]

Small (480 MiB, no kernel) or large (1200 MiB, kernel, initrd, containerd) images of Debian 12: the
main archive alone, and with security and updates. Prints payload size, seconds and memory beside
the peers (pair.py), then a whole install over loopback (install.py).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from slipstream.demo.images import debian_pair

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--peers", default="xdelta3,zstd")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    pair = debian_pair(options.cache, print, large=options.large)
    name = "large" if options.large else "small"
    print(f"\n{name} Debian pair, {pair[1].stat().st_size:,} bytes", flush=True)
    for script, more in (
        ("pair.py", ["--full", "--peers", options.peers]),
        ("install.py", ["--profile", "balanced"]),
    ):
        print(flush=True)
        subprocess.run([sys.executable, HERE / script, *pair, *more], check=True)


if __name__ == "__main__":
    main()
