"""Commands inside the guest, by the QEMU guest agent (its documentation: qemu-ga's QMP reference).

For facts that neither the server nor the serial log tells. Nothing of an update depends on it.
"""

import base64
import contextlib
import json
import random
import socket
import time
from collections.abc import Sequence
from typing import Any

from e2e.machine import POLL_S, Machine, TimedOut
from slipstream.delta.errors import SlipstreamError

ANSWER_S = 15.0
LOOK_S = 0.5  # the guest's agent writes a line to the log for each question


def run_in_guest(machine: Machine, words: Sequence[str], deadline_s: float = 60.0) -> str:
    """Standard output of a command that ends with exit code 0. Raises SlipstreamError, TimedOut."""
    end = time.monotonic() + deadline_s
    pid = _ask(
        machine, "guest-exec", end, path=words[0], arg=list(words[1:]), **{"capture-output": True}
    )["pid"]
    while time.monotonic() < end:
        status = _ask(machine, "guest-exec-status", end, pid=pid)
        if status["exited"]:
            output = base64.b64decode(status.get("out-data", "")).decode("utf-8", "replace")
            if status.get("exitcode") != 0:
                errors = base64.b64decode(status.get("err-data", "")).decode("utf-8", "replace")
                raise SlipstreamError(
                    "a command in the guest failed",
                    where=" ".join(words),
                    got=f"{status.get('exitcode')}: {errors[-500:]}",
                )
            return output
        time.sleep(LOOK_S)
    raise TimedOut("a command in the guest does not end", where=" ".join(words))


def _ask(machine: Machine, command: str, end: float, **arguments: Any) -> Any:
    """One command, on a connection of its own; again while the agent is not there yet."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, _NoAnswer):
            return _ask_once(machine, command, arguments)
        time.sleep(POLL_S)
    raise TimedOut("the guest agent does not answer", where=machine.serial, got=command)


class _NoAnswer(Exception):
    """The agent is not up, or answered something else."""


def _ask_once(machine: Machine, command: str, arguments: dict[str, Any]) -> Any:
    number = random.getrandbits(31)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(ANSWER_S)
        channel.connect(str(machine.agent_socket))
        with channel.makefile("rwb") as stream:
            # What an agent that was cut off may still have to say stands before the answer to this.
            _send(stream, "guest-sync", {"id": number})
            for line in stream:
                if _parse(line).get("return") == number:
                    break
            else:
                raise _NoAnswer
            _send(stream, command, arguments)
            answer = _parse(stream.readline())
    if "error" in answer:
        raise SlipstreamError(f"{command} failed in the guest", got=answer["error"])
    return answer["return"]


def _send(stream: Any, command: str, arguments: dict[str, Any]) -> None:
    stream.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    stream.flush()


def _parse(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    return found
