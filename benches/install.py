"""A whole install over loopback: how fast, and how much memory the installer holds.

    python benches/install.py SOURCE.img TARGET.img [--work DIR] [--profile fast] [--json FILE]

Publishes SOURCE as release 1.0 and TARGET as 2.0 with a delta, serves both, and installs them on a
device in a folder: 1.0 from its full payload, 2.0 from the delta, and 2.0 again where all of it
stands. Each install runs in a process of its own; peak resident memory is the kernel's account of
that process. Prints a table. With --work, the repository is kept for the next run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipstream.installer.boot.chooser import boot

MB = 1_000_000
COMMAND = [sys.executable, "-c", "from slipstream.cli import main; main()"]
CONFIG = """\
[device]
id = "bench"
product = "bench"
hardware = "any"
state = "state"
[server]
url = "{url}"
root = "root.json"
[slots.a]
rootfs = "a.img"
[slots.b]
rootfs = "b.img"
[boot]
esp = "esp"
cmdline = "cmdline"
entry = "selected"
[release]
file = "release.json"
[install]
verity = "initrd"
"""
SERVE = """
import sys
from pathlib import Path
from slipstream.server.serve import serve
serve(Path(sys.argv[1]), listen="127.0.0.1:0", on_ready=lambda url: print(url, flush=True))
"""


def main() -> None:
    parser = pair_arguments()
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with served(options) as (work, url):
        rows = measure(work / "device", work / "repo", url, options.target.stat().st_size)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def pair_arguments() -> argparse.ArgumentParser:
    """The pair of images, where to work, and the profile of the delta."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--profile", default="fast")
    return parser


@contextmanager
def served(options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The folder to work in, with the pair published in its `repo`, and the URL that serves it."""
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        repo = work / "repo"
        if not (repo / "public" / "metadata" / "timestamp.json").exists():
            publish(repo, options.source, options.target, options.profile)
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, repo / "public"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            yield work, server.stdout.readline().strip()
        finally:
            server.terminate()
            server.wait()


def publish(repo: Path, source: Path, target: Path, profile: str) -> None:
    slipstream("repo", "init", repo, "--product", "bench", "--insecure-no-passphrase")
    kernel = repo / "kernel"
    kernel.write_bytes(b"a kernel")
    for version, image, more in (
        ("1.0", source, []),
        ("2.0", target, ["--delta-from", "1.0"]),
    ):
        slipstream(
            *("repo", "publish", repo, "--version", version, "--profile", profile),
            *("--image", f"rootfs={image}", "--image", f"linux={kernel}"),
            *("--options", "roothash={rootfs.root}", *more),
        )


def slipstream(*words: object) -> None:
    subprocess.run([*COMMAND, *map(str, words)], check=True)


def measure(device: Path, repo: Path, url: str, size: int) -> list[dict[str, object]]:
    shutil.rmtree(device, ignore_errors=True)
    (device / "esp" / "loader").mkdir(parents=True)  # as bootctl makes it
    (device / "cmdline").touch()
    shutil.copy(repo / "public" / "metadata" / "1.root.json", device / "root.json")
    for name in ("a.img", "b.img"):
        with (device / name).open("wb") as file:
            file.truncate(size + (64 << 20))
    config = device / "device.toml"
    config.write_text(CONFIG.format(url=url))
    rows = [install(config, "1.0", "full payload")]
    start(device)
    slipstream("device", "confirm", "--config", config)
    rows.append(install(config, "2.0", "delta"))
    (device / "state" / "tx.json").unlink()
    rows.append(install(config, "2.0", "all of it stands"))
    return rows


def start(device: Path) -> None:
    """Boot what the boot loader would."""
    choice = boot(device / "esp")
    assert choice is not None
    (device / "cmdline").write_text(choice.cmdline)


def install(config: Path, version: str, what: str) -> dict[str, object]:
    words = ["device", "install", "--config", str(config), "--release", version, "--json"]
    began = time.perf_counter()
    child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"install of {version} failed: {lines[-1] if lines else child.returncode}")
    result = json.loads(lines[-1])
    image = int(result["image_bytes"])
    return {
        "install": f"{version}, {what}",
        "image_bytes": image,
        "bytes_fetched": int(result["bytes_fetched"]),
        "bytes_written": int(result["bytes_written"]),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "target_mb_per_second": round(image / MB / seconds, 1),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }


def print_table(rows: list[dict[str, object]]) -> None:
    print(f"{'install':<24}{'image MB':>9}{'fetched MB':>12}{'seconds':>9}{'cpu s':>8}", end="")
    print(f"{'MB/s':>8}{'peak MiB':>10}")
    for row in rows:
        image, fetched = (float(str(row[key])) / MB for key in ("image_bytes", "bytes_fetched"))
        print(f"{row['install']:<24}{image:>9.1f}{fetched:>12.2f}{row['seconds']:>9}", end="")
        print(f"{row['cpu_seconds']:>8}{row['target_mb_per_second']:>8}{row['peak_mib']:>10}")


if __name__ == "__main__":
    main()
