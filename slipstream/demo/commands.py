"""The slipstream command as its user would type it: a process of its own, shown and checked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from slipstream.delta.errors import SlipstreamError

COMMAND = (sys.executable, "-m", "slipstream")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended: its exit code, its JSON lines, its time, its peak resident memory."""

    code: int
    lines: list[dict[str, object]]
    seconds: float
    peak_kib: int

    @property
    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL, as it was meant to."""
        return self.code == -signal.SIGKILL


def run_slipstream(
    *words: str,
    say: Callable[[str], None],
    expect: int | None = 0,
    kill_when: Callable[[dict[str, object]], bool] | None = None,
) -> Ran:
    """Run a command; say it and, without --json, what it prints.

    `kill_when` sees every JSON line; where it says so, the process gets SIGKILL. It may have ended
    by itself before that arrives. Raises SlipstreamError on any other exit code than `expect`, if
    one is expected.
    """
    say("\n$ slipstream " + " ".join(words))
    kill_sent = False
    began = time.monotonic()
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines: list[dict[str, object]] = []
    try:
        with process.stdout as output:
            for line in output:
                if "--json" not in words:
                    say("  " + line.rstrip())
                    continue
                lines.append(json.loads(line))
                if kill_when is not None and not kill_sent and kill_when(lines[-1]):
                    process.send_signal(signal.SIGKILL)
                    kill_sent = True
    except BaseException:  # Ctrl-C, too: nobody else would end it
        process.kill()
        process.wait()
        raise
    # Not process.wait(): only wait4 tells the memory of this one process.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ran = Ran(process.returncode, lines, time.monotonic() - began, usage.ru_maxrss)
    if expect is not None and ran.code != expect and not (kill_sent and ran.was_killed):
        raise SlipstreamError(
            "a command ended as it must not",
            where=f"slipstream {' '.join(words)}",
            expected=f"exit code {expect}",
            got=ran.code,
        )
    return ran
