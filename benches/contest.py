"""One contender on one pair of images: encode, decode, compare, and what it cost."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benches.corpus import digest_of
from benches.measure import Cost, OverLimitError, measure
from slipstream.delta.errors import DigestMismatch

MIB = 1 << 20

HEADING = (
    f"{'':34}{'payload':>14}{'encode':>18}{'memory':>10}{'decode':>16}{'memory':>10}\n"
    f"{'':34}{'bytes':>14}{'wall s':>9}{'cpu s':>9}{'MiB':>10}{'wall s':>8}{'cpu s':>8}{'MiB':>10}"
)


def size_of_file(payload: Path) -> int:
    """Bytes of a payload that is one file."""
    return payload.stat().st_size


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to carry a target image to a device that has a source image.

    `encode` and `decode` give commands for (source, target, payload) and (source, payload, made).
    A payload may be a folder; `payload_bytes` says how much of it a device would fetch. `version`
    raises where the tool is not installed.
    """

    name: str
    title: str
    version: Callable[[], str]
    encode: Callable[[Path, Path, Path], list[str]]
    decode: Callable[[Path, Path, Path], list[str]]
    payload_bytes: Callable[[Path], int] = size_of_file
    image_max_bytes: int | None = None  # above it, memory or time are out of the question
    quick: bool = False  # half a minute on half a gigabyte: measured anew in every short run
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contender came to on one row: figures, or the reason why there are none."""

    version: str
    payload_bytes: int = 0
    encode: Cost | None = None
    decode: Cost | None = None
    skipped: str = ""
    machine: str = ""  # processors that it was measured on


def contest(
    contender: Contender, source: Path, target: Path, expected: str, *, limit_s: int | None = None
) -> Cell:
    """Measure one contender.

    `expected` is the target's SHA-256. Raises DigestMismatch where the decoded target differs, and
    SlipstreamError where a command fails; a command over `limit_s` gives a skipped cell.
    """
    version = contender.version()
    largest = max(source.stat().st_size, target.stat().st_size)
    if contender.image_max_bytes is not None and largest > contender.image_max_bytes:
        return Cell(version, skipped=f"image over {contender.image_max_bytes // MIB} MiB")
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as folder:
        payload, made = Path(folder, "payload"), Path(folder, "made")
        try:
            encode = measure(contender.encode(source, target, payload), limit_s=limit_s)
            payload_bytes = contender.payload_bytes(payload)
            decode = measure(contender.decode(source, payload, made), limit_s=limit_s)
        except OverLimitError as error:
            return Cell(version, skipped=str(error))
        got = digest_of(made)
    if got != expected:
        raise DigestMismatch(
            "the decoded target differs", where=contender.name, expected=expected, got=got
        )
    return Cell(version, payload_bytes, encode, decode, machine=machine())


def machine() -> str:
    """Number and kind of this machine's processors."""
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{os.cpu_count()} x {names[0] if names else os.uname().machine}"


def installed(contender: Contender) -> bool:
    """Whether its tool is there."""
    try:
        contender.version()
    except (OSError, subprocess.CalledProcessError, ImportError):
        return False
    return True


def line(contender: Contender, cell: Cell, remark: str = "") -> str:
    """One line of the table under HEADING."""
    if cell.encode is None or cell.decode is None:
        return f"{contender.title:34}{cell.skipped:>14}{remark}"
    encode, decode = cell.encode, cell.decode
    return (
        f"{contender.title:34}{cell.payload_bytes:14,}"
        f"{encode.wall_s:9.1f}{encode.cpu_s:9.1f}{encode.peak_bytes // MIB:10}"
        f"{decode.wall_s:8.1f}{decode.cpu_s:8.1f}{decode.largest_process_bytes // MIB:10}{remark}"
    )
