"""Any two images: our payload beside the peers', in size, time and memory.

    python -m benches.pair SOURCE.img TARGET.img [--profile P] [--jobs N] [--memory SIZE]
                           [--peers xdelta3,zstd | none] [--full] [--json FILE]

Nothing is cached. Every decoded target is compared by SHA-256. --full adds the full payload's row.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from benches.contest import HEADING, contest, installed, line
from benches.corpus import digest_of
from benches.ours import slipstream
from benches.peers import PEERS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--jobs")
    parser.add_argument("--memory", default="96MiB")
    parser.add_argument("--peers", default="xdelta3,zstd", help=f"of {', '.join(PEERS)}; or none")
    parser.add_argument("--full", action="store_true", help="a full payload of the target too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    words = ["--profile", options.profile, "--memory", options.memory]
    words += ["--jobs", options.jobs] if options.jobs else []
    names = [] if options.peers == "none" else options.peers.split(",")
    title = f"slipstream {options.profile}, {options.memory}"
    contenders = [
        slipstream("ours", title, *words),
        *([slipstream("ours-full", f"{title}, full", *words, full=True)] if options.full else []),
        *(PEERS[name] for name in names),
    ]
    expected = digest_of(options.target)
    cells = {}
    print(HEADING, flush=True)
    for contender in contenders:
        if not installed(contender):
            print(f"{contender.title} is not installed: left out", file=sys.stderr)
            continue
        cell = cells[contender.name] = contest(contender, options.source, options.target, expected)
        print(line(contender, cell), flush=True)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(cells), indent=1) + b"\n")


if __name__ == "__main__":
    main()
