"""What was measured, as JSON: docs/benchmarks.json, and the cache from which a run goes on.

A row's cells belong to the two images that they were measured on, by SHA-256; a cell belongs to the
version of its tool. Where either differs, it is measured again.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from benches.contest import Cell


@dataclass(frozen=True, slots=True)
class RowResults:
    """The images of one row, and a cell for each contender that was measured on them."""

    source_sha256: str
    target_sha256: str
    source_bytes: int
    target_bytes: int
    cells: dict[str, Cell] = field(default_factory=dict)

    def same_images(self, other: "RowResults") -> bool:
        return (self.source_sha256, self.target_sha256) == (
            other.source_sha256,
            other.target_sha256,
        )


class ResultCache:
    """A file for each row, so that two runs on different rows may stand beside each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, row: str) -> RowResults | None:
        """What is known of a row; None where nothing is."""
        path = self._path(row)
        if not path.exists():
            return None
        return msgspec.json.decode(path.read_bytes(), type=RowResults)

    def store(self, row: str, images: RowResults, contender: str, cell: Cell) -> None:
        """Keep one cell, beside those of the same images."""
        known = self.load(row)
        kept = known.cells if known is not None and known.same_images(images) else {}
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(
            self._path(row),
            msgspec.json.encode(replace(images, cells={**kept, contender: cell})),
        )

    def _path(self, row: str) -> Path:
        return self.folder / f"{row.replace('/', '.')}.json"


def load_all(path: Path) -> dict[str, RowResults]:
    """Rows of docs/benchmarks.json; none where there is no such file."""
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, RowResults])


def save_all(path: Path, rows: dict[str, RowResults]) -> None:
    _write(path, msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


def merged(older: RowResults | None, newer: RowResults) -> RowResults:
    """Cells of both where they are of the same images, the newer ones over the older."""
    if older is None or not older.same_images(newer):
        return newer
    return replace(newer, cells={**older.cells, **newer.cells})


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
