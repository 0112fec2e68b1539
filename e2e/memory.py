"""Resident memory of the agent, read in the guest from the kernel's own books."""

import re
import time
from contextlib import suppress

from e2e.guest_agent import run_in_guest
from e2e.story import STEP_S, Story
from slipstream.delta.errors import SlipstreamError

EVERY_S = 3.0
SAMPLE_S = 15.0  # not longer: it may be rebooting, and the next start's agent would answer
# Every process of the unit. proc(5): VmRSS is resident now, VmHWM the most that ever was.
SCRIPT = """
for pid in $(cat /sys/fs/cgroup/system.slice/slipstream.service/cgroup.procs); do
    cat /proc/$pid/status
done
"""


def resident_memory(story: Story) -> int:
    """Bytes resident now."""
    return _sample(story, "VmRSS")


def peak_memory(story: Story, *, until: str, since: int) -> int:
    """The most bytes that were resident up to `until` in the log from `since` on; 0 without a sample."""
    most = 0
    for _ in story.machine.until(STEP_S, until):
        if until in story.machine.log_since(since):
            break
        with suppress(SlipstreamError):  # a process that ended meanwhile, a machine on its way down
            most = max(most, _sample(story, "VmHWM"))
        time.sleep(EVERY_S)
    return most


def _sample(story: Story, key: str) -> int:
    text = run_in_guest(story.machine, ["/bin/sh", "-c", SCRIPT], SAMPLE_S)
    return 1024 * sum(int(kib) for kib in re.findall(rf"{key}:\s+(\d+) kB", text))
