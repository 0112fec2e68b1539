"""What the agent holds resident: while it waits, and while it installs.

    python -m benches.agent_memory SOURCE.img TARGET.img [--work DIR] [--profile fast]

Publishes SOURCE as release 1.0 and TARGET as 2.0 with a delta, serves both with `slipstream serve`
on loopback, and lets the real `slipstream device run` work on a device in a folder:

    full       it installs 2.0 on an empty device
    delta      it installs 2.0 on a device that runs 1.0
    idle       it runs 2.0, has polled, and waits for the next poll
    static     the same without a server to poll: it looked for something newer itself

Installing is the peak (VmHWM), idle what /proc/PID/smaps_rollup says after settling. Then the
modules that cost an idle agent the most, each without those that it imports.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benches.install import COMMAND, CONFIG, pair_arguments, served, slipstream, start

SETTLE_S = 5.0  # after the first line that it says, for the rest of its round
TIMEOUT_S = 600.0
MODULES_SHOWN = 12
COST = """
import importlib._bootstrap as bootstrap, sys

def resident():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss"))

real, costs, inner = bootstrap._find_and_load, {}, []

def find_and_load(name, import_):
    if name in sys.modules:
        return real(name, import_)
    before = resident()
    inner.append(0)
    try:
        return real(name, import_)
    finally:
        spent, below = resident() - before, inner.pop()
        costs[name] = spent - below
        if inner:
            inner[-1] += spent

bare = resident()
bootstrap._find_and_load = find_and_load
import slipstream.cli.device
print("the interpreter itself", bare)
for name, kib in costs.items():
    print(name, kib)
"""


def main() -> None:
    options = pair_arguments().parse_args()
    with served(options) as (work, url):
        measure(work / "device", work / "repo", url, options.target.stat().st_size)
    print_modules()


def measure(device: Path, repo: Path, url: str, size: int) -> None:
    """Print what the agent holds in each of the four."""
    config = make_device(device, repo, url, size)
    print(f"full     {run_agent(config, 'rebooting', peak)}")
    config = make_device(device, repo, url, size)
    slipstream("device", "install", "--config", config, "--release", "1.0")
    start(device)
    slipstream("device", "confirm", "--config", config)
    print(f"delta    {run_agent(config, 'rebooting', peak)}")
    start(device)
    slipstream("device", "confirm", "--config", config)
    print(f"idle     {run_agent(config, '', resident)}")
    text = config.read_text()
    config.write_text(text.replace('token_file = "token"\n', ""))
    print(f"static   {run_agent(config, '', resident)}", flush=True)


def make_device(device: Path, repo: Path, url: str, size: int) -> Path:
    """An empty device that the server knows."""
    shutil.rmtree(device, ignore_errors=True)
    (device / "esp" / "loader").mkdir(parents=True)
    (device / "cmdline").touch()
    shutil.copy(repo / "public" / "metadata" / "1.root.json", device / "root.json")
    for name in ("a.img", "b.img"):
        with (device / name).open("wb") as file:
            file.truncate(size + (64 << 20))
    name = f"bench-{time.time_ns()}"
    (device / "token").touch(mode=0o600)
    (device / "token").write_text(register(repo, url, name))
    config = device / "device.toml"
    text = CONFIG.format(url=url).replace("[slots.a]", 'token_file = "token"\n[slots.a]')
    text = text.replace("[release]", 'counting = "trusted"\nreboot = ["true"]\n[release]')
    config.write_text(text.replace('"bench"', f'"{name}"', 1))
    return config


def register(repo: Path, url: str, name: str) -> str:
    """Make the device known to the server; its token."""
    operator = (repo / "server" / "operator.token").read_text().strip()
    request = urllib.request.Request(
        f"{url}/api/v1/devices",
        json.dumps({"id": name, "product": "bench"}).encode(),
        {"Authorization": f"Bearer {operator}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["token"])


def run_agent(config: Path, until: str, look: Callable[[int], str]) -> str:
    """What `look` sees of the agent some time after a line with `until` in it; then it is stopped."""
    agent = subprocess.Popen(
        [*COMMAND, "device", "run", "--config", str(config)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert agent.stdout is not None
        said = []
        for line in agent.stdout:
            said.append(line)
            if until in line:
                break
        else:
            sys.exit("the agent ended:\n" + "".join(said))
        time.sleep(SETTLE_S)
        return look(agent.pid)
    finally:
        agent.terminate()
        agent.wait(TIMEOUT_S)


def peak(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return f"{kib / 1024:6.1f} MiB resident at most"


def resident(pid: int) -> str:
    rows = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    mib = {row[0].rstrip(":"): int(row[1]) / 1024 for row in rows}
    return (
        f"{mib['Rss']:6.1f} MiB resident, {mib['Pss']:.1f} proportional, "
        f"{mib['Anonymous']:.1f} of it not backed by files"
    )


def print_modules() -> None:
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True)
    rows = [line.rpartition(" ") for line in done.stdout.splitlines()]
    costs = sorted(((int(kib), name) for name, _, kib in rows), reverse=True)
    print(f"\nimported by an idle agent, {sum(kib for kib, _ in costs) / 1024:.1f} MiB:")
    for kib, name in costs[:MODULES_SHOWN]:
        print(f"{kib / 1024:6.1f} MiB  {name}")


if __name__ == "__main__":
    main()
