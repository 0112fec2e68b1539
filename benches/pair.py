"""One delta between two images, beside the peers: size, time and memory.

    python benches/pair.py SOURCE.img TARGET.img [--profile P] [--jobs N] [--memory-mib N]
                           [--peers xdelta3,zstd | none] [--full] [--json FILE]

Every command runs in processes of its own. Seconds are wall clock and processor time of the
whole process tree; memory is the highest sum of proportional set sizes over that tree, sampled
ten times a second, and for decoders also the kernel's own account of the peak. Our decoder runs
in a process that imports what a device imports, no more. Every decoded target is compared by
SHA-256. --full adds the full payload's row: `make bench` (480 MiB) and `make bench-large` (1200
MiB) so show the decoder's memory for two image sizes, delta and full, which must be below 96 MiB.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic

MIB = 1 << 20
ENCODE = """
import sys
from pathlib import Path
from slipstream.server.build import build_payload
if __name__ == "__main__":
    source, target, output, profile, jobs, memory = sys.argv[1:]
    build_payload(
        Path(source) if source else None, Path(target), Path(output),
        profile=profile, jobs=int(jobs) or None, memory_bytes=int(memory) << 20,
    )
"""
DECODE = """
import sys
from pathlib import Path
from slipstream.server.patch import apply_payload
source, payload, output = sys.argv[1:]
apply_payload(Path(source) if source else None, Path(payload), Path(output))
assert "numpy" not in sys.modules and "sqlalchemy" not in sys.modules
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, default=96)
    parser.add_argument("--peers", default="xdelta3,zstd")
    parser.add_argument("--full", action="store_true", help="a full payload of the target too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as temporary:
        work = Path(temporary)
        (work / "encode.py").write_text(ENCODE)
        (work / "decode.py").write_text(DECODE)
        expected = digest_of(options.target)
        print(HEADING, flush=True)
        for name, encode, decode in contenders(options, work):
            rows.append(measure_pair(name, encode, decode, work, expected))
            print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def contenders(options: argparse.Namespace, work: Path) -> list[tuple[str, list[str], list[str]]]:
    """(name, encode command, decode command); commands write and read work/payload, work/made."""
    source, target = str(options.source), str(options.target)
    payload, made = str(work / "payload"), str(work / "made")
    settings = [options.profile, str(options.jobs), str(options.memory_mib)]
    ours = [sys.executable, str(work / "encode.py")]
    apply = [sys.executable, str(work / "decode.py")]
    found = [
        (
            f"slipstream {options.profile}",
            [*ours, source, target, payload, *settings],
            [*apply, source, payload, made],
        )
    ]
    if options.full:
        found.append(
            (
                f"slipstream {options.profile}, full",
                [*ours, "", target, payload, *settings],
                [*apply, "", payload, made],
            )
        )
    peers = {
        "xdelta3": (
            "xdelta3 -9 -S lzma",
            # The source window holds the whole image, as far as xdelta3 can (2 GiB).
            [
                *f"xdelta3 -e -f -9 -S lzma -B {window_bytes(options.source)} -s".split(),
                source,
                target,
                payload,
            ],
            [
                "xdelta3",
                "-d",
                "-f",
                "-B",
                str(window_bytes(options.source)),
                "-s",
                source,
                payload,
                made,
            ],
        ),
        "zstd": (
            "zstd -19 --long=31",
            [
                *["zstd", "-q", "-f", "--ultra", "-19", "--long=31"],
                f"--patch-from={source}",
                target,
                "-o",
                payload,
            ],
            [
                *["zstd", "-q", "-f", "-d", "--long=31"],
                f"--patch-from={source}",
                payload,
                "-o",
                made,
            ],
        ),
    }
    for name in options.peers.split(","):
        if name == "none":
            continue
        if shutil.which(name) is None:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        found.append(peers[name])
    return found


def window_bytes(source: Path) -> int:
    size = source.stat().st_size
    return min(1 << 31, max(1 << 20, 1 << (size - 1).bit_length()))


def measure_pair(
    name: str, encode: list[str], decode: list[str], work: Path, expected: str
) -> dict[str, object]:
    encoded = measure(encode)
    payload_bytes = (work / "payload").stat().st_size
    decoded = measure(decode)
    if digest_of(work / "made") != expected:
        raise SystemExit(f"{name}: decoded target differs")
    (work / "made").unlink()
    (work / "payload").unlink()
    return {"name": name, "payload_bytes": payload_bytes, "encode": encoded, "decode": decoded}


def measure(command: list[str]) -> dict[str, float]:
    """Run to the end; seconds and the peak memory of the process tree."""
    began = monotonic()
    process = subprocess.Popen(command)
    peak = 0
    ended = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(0.1):
            peak = max(peak, tree_memory_bytes(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    sampler.join()
    if status:
        raise SystemExit(f"{command[0]} failed: {status}")
    return {
        "wall_s": round(monotonic() - began, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": peak,
        "largest_process_bytes": usage.ru_maxrss * 1024,
    }


def tree_memory_bytes(pid: int) -> int:
    """Sum of proportional set sizes of a process and its descendants."""
    total = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            for row in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if row.startswith("Pss:"):
                    total += int(row.split()[1]) * 1024
        except (OSError, ValueError):
            continue  # it ended meanwhile
    return total


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


HEADING = (
    f"{'':28}{'payload':>14}{'encode':>18}{'memory':>10}{'decode':>16}{'memory':>10}\n"
    f"{'':28}{'bytes':>14}{'wall s':>9}{'cpu s':>9}{'MiB':>10}{'wall s':>8}{'cpu s':>8}{'MiB':>10}"
)


def line(row: dict) -> str:
    encode, decode = row["encode"], row["decode"]
    return (
        f"{row['name']:28}{row['payload_bytes']:14,}"
        f"{encode['wall_s']:9}{encode['cpu_s']:9}{encode['peak_bytes'] // MIB:10}"
        f"{decode['wall_s']:8}{decode['cpu_s']:8}{decode['largest_process_bytes'] // MIB:10}"
    )


if __name__ == "__main__":
    main()
