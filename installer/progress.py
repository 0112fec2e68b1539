"""What an install says while it works: for progress bars, logs and the agent."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where an install is."""

    PREPARE = "prepare"
    RETIRE = "retire"
    SCAN = "scan"
    WRITE = "write"
    READ_BACK = "read back"
    STAGE = "stage"
    PUBLISH = "publish"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class InstallEvent:
    """Words for people, or, with no text, bytes done of an image's bytes in all.

    `fetched_bytes`, at stage write: bytes of payload frames that this process has received so
    far, for all images, among them what is still ahead in the spool. May come from a worker
    thread.
    """

    stage: Stage
    text: str
    image: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    fetched_bytes: int = 0


OnEvent = Callable[[InstallEvent], None]


def ignore(_: InstallEvent) -> None:
    """Nobody watches."""
