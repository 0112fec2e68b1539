"""What an install says while it works: for progress bars, logs and the agent."""

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Counts:
    """What an install cost, summed over its images. Bytes, but for the chunk counts.

    `notes` say in words what did not go as planned, for the device's status and its report.
    """

    bytes_fetched: int = 0
    bytes_refetched: int = 0
    bytes_reused: int = 0
    bytes_written: int = 0
    chunks: int = 0
    chunks_standing: int = 0
    notes: list[str] = field(default_factory=list)


OnEvent = Callable[[InstallEvent], None]


def ignore(_: InstallEvent) -> None:
    """Nobody watches."""
