"""Runs one command and says what it cost: seconds, processor seconds, memory of its processes.

Memory is the highest sum of proportional set sizes over the process tree, sampled ten times a
second, and beside it the kernel's own account of the largest process, which misses no peak.
"""

import os
import subprocess
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGXCPU
from time import monotonic
from typing import Self

from slipstream.delta.errors import SlipstreamError

_SAMPLES_PER_S = 10
_SAID_MAX = 500  # characters of a failed command's messages
# A command that hangs uses no processor time. On a machine where others have precedence, one that
# does not hang had 8 % of a processor: so it may take this many times its limit on the clock.
WALL_PER_CPU = 15


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took, and the processor time of all other programs meanwhile: where that is
    much, the wall time tells of them too."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    largest_process_bytes: int
    others_cpu_s: float


class OverLimitError(Exception):
    """The command took longer than it may, and was ended."""


def measure(command: list[str], *, limit_s: int | None = None) -> Cost:
    """Run to the end.

    `limit_s` bounds the processor time of each of its processes, and WALL_PER_CPU times as much
    the time on the clock. Raises OverLimitError, or where it fails SlipstreamError with the end of
    what it said.
    """
    # Its process ends with this one, however this one ends. The soft limit ends it with SIGXCPU,
    # which says why; the hard one a second later with SIGKILL.
    words = ["setpriv", "--pdeathsig", "KILL", "--"]
    if limit_s is not None:
        words += ["prlimit", f"--cpu={limit_s}:{limit_s + 1}"]
    with tempfile.TemporaryFile() as said:
        busy_before, began = busy_s(), monotonic()
        process = subprocess.Popen(
            [*words, *command],
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # so that all that it started can be ended with it
        )
        with _Sampler(process.pid, None if limit_s is None else WALL_PER_CPU * limit_s) as sampler:
            _, status, usage = os.wait4(process.pid, 0)
            ended, busy_after = monotonic(), busy_s()
        process.returncode = os.waitstatus_to_exitcode(status)
        if sampler.over or process.returncode == -SIGXCPU:
            raise OverLimitError(f"over {limit_s} s")
        if process.returncode:
            said.seek(0)
            tail = said.read().decode(errors="replace").strip()[-_SAID_MAX:]
            raise SlipstreamError(f"{command[0]} failed: {process.returncode}", got=tail or None)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(
        wall_s=round(ended - began, 2),
        cpu_s=round(cpu_s, 2),
        peak_bytes=sampler.peak_bytes,
        largest_process_bytes=usage.ru_maxrss * 1024,
        others_cpu_s=round(max(0.0, busy_after - busy_before - cpu_s), 2),
    )


class _Sampler:
    """Watches the memory of a process group, and ends it after its time or with the caller."""

    def __init__(self, pid: int, wall_max_s: int | None) -> None:
        self.peak_bytes = 0
        self.over = False
        self._pid = pid
        self._wall_max_s = wall_max_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:
            self._kill()

    def _sample(self) -> None:
        began = monotonic()
        while not self._ended.wait(1 / _SAMPLES_PER_S):
            self.peak_bytes = max(self.peak_bytes, tree_memory_bytes(self._pid))
            if self._wall_max_s is not None and monotonic() - began > self._wall_max_s:
                self.over = True
                self._kill()
                return

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.killpg(self._pid, SIGKILL)


def busy_s() -> float:
    """Seconds that all processors together have worked since the machine started."""
    # proc_stat(5): user nice system idle iowait irq softirq steal; steal is work of other machines.
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


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
