"""Resident memory of the agent, read in the guest from the kernel's own books."""

import re
import time

from e2e.guest_agent import run_in_guest
from e2e.story import STEP_S, Story
from slipstream.delta.errors import SlipstreamError

EVERY_S = 2.0
# The main process of the unit, and its children: VmHWM is the most that was ever resident, proc(5).
SCRIPT = """
main=$(systemctl show -P MainPID slipstream.service)
for status in /proc/$main/status $(cat /proc/$main/task/*/children | sed 's|[0-9][0-9]*|/proc/&/status|g'); do
    cat "$status"
done
"""


def sample_memory(story: Story, *, while_not: str | None = None) -> int:
    """Bytes resident: now; or the highest until the agent says `while_not`."""
    most, offset = 0, story.machine.log_end()
    for _ in story.machine.until(STEP_S, while_not or "one sample"):
        try:
            text = run_in_guest(story.machine, ["/bin/sh", "-c", SCRIPT])
        except SlipstreamError:
            if while_not is None or most == 0:
                raise
            break  # it reboots: the guest agent is gone
        key = "VmRSS" if while_not is None else "VmHWM"
        kib = sum(int(number) for number in re.findall(rf"{key}:\s+(\d+) kB", text))
        most = max(most, kib * 1024)
        if while_not is None or while_not in story.machine.log_since(offset):
            break
        time.sleep(EVERY_S)
    return most
