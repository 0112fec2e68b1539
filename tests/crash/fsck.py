"""What fsck.vfat makes of an ESP after a power cut: the tool itself, on an image of the sectors.

As systemd-fsck runs it before the partition is mounted: `-a`, without a question. Its exit code 1
says that it changed something; everything above it is a fault.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from tests.crash.volume import SECTOR, Sectors, digest_of, reader_of

FSCK = "/usr/sbin/fsck.vfat"  # of dosfstools
_ZEROS = bytes(SECTOR)
_CHANGES: dict[bytes, Sectors] = {}


def run_fsck(sectors: Sectors) -> Sectors:
    """The sectors after `fsck.vfat -a`; equal to those before it where nothing was to be mended."""
    key = digest_of(sectors)
    if key not in _CHANGES:
        if len(_CHANGES) > 20_000:
            _CHANGES.clear()
        _CHANGES[key] = _run_fsck(sectors)
    return sectors | _CHANGES[key]


def _run_fsck(sectors: Sectors) -> Sectors:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=base, prefix="fsck-") as file:
        file.truncate(reader_of(sectors)[1])
        for number, raw in sectors.items():
            os.pwrite(file.fileno(), raw, number * SECTOR)
        done = subprocess.run([FSCK, "-a", file.name], check=False, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise AssertionError(f"fsck.vfat -a: {done.returncode}: {done.stdout}{done.stderr}")
        return _changed(Path(file.name), sectors)


def _changed(image: Path, sectors: Sectors) -> Sectors:
    """The sectors that are other ones now. Holes of the file hold nothing that was written."""
    found: Sectors = {}
    with image.open("rb") as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            stop = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            for offset in range(at, stop, SECTOR):
                raw = os.pread(file.fileno(), SECTOR, offset)
                if raw != sectors.get(offset // SECTOR, _ZEROS):
                    found[offset // SECTOR] = raw
            at = stop
    return found
