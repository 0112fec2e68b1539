"""The table that closes the demonstration: one row an install, figures as they were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.cli.progress import megabytes

HEAD = (
    "",
    "root fs",
    "its payload",
    "UKI payload",
    "fetched",
    "twice",
    "seconds",
    "peak memory",
    "booted",
)


@dataclass(slots=True)
class Row:
    """One install: bytes of the root file system's image, of both payloads, and what it took.

    `twice_bytes` are those of a frame that were fetched again after a kill; `peak_kib` is the
    largest resident size of any installer process; `booted` what then booted, in order.
    """

    what: str
    image_bytes: int
    payload_bytes: int
    uki_payload_bytes: int
    fetched_bytes: int
    twice_bytes: int
    seconds: float
    peak_kib: int
    booted: str = ""

    def add_boot(self, version: str) -> None:
        """Note that a release booted."""
        self.booted += f", then {version}" if self.booted else version

    def cells(self) -> tuple[str, ...]:
        """The row for people, in the order of HEAD."""
        return (
            self.what,
            megabytes(self.image_bytes),
            megabytes(self.payload_bytes),
            megabytes(self.uki_payload_bytes),
            megabytes(self.fetched_bytes),
            megabytes(self.twice_bytes),
            f"{self.seconds:.1f}",
            f"{self.peak_kib / 1024:.0f} MiB",
            self.booted,
        )


def table_of(rows: Sequence[Row]) -> str:
    """The rows below their head, in columns: the first to the left, the figures to the right."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
