"""The first pass over the images of a build: their digests, and the hashes of their grains."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from functools import partial

import numpy as np

from slipstream.delta.digest import Digest
from slipstream.delta.limits import MIB
from slipstream.delta.match import Hashes, hash_grains
from slipstream.server.image import ImageFile
from slipstream.server.progress import Progress

_PIECE_BYTES = 4 * MIB  # read and hashed at a time
_REPORT_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Scan:
    """One pass over an image: its digest and the hashes of its whole grains."""

    digest: Digest
    hashes: Hashes


def scan_images(
    images: Sequence[ImageFile], threads: Executor, on_progress: Progress
) -> list[Scan]:
    """Scans of all images at once; progress is told by the calling thread. OSError, UsageError."""
    done = [0] * len(images)
    total = sum(image.size for image in images)
    scans = [
        threads.submit(_scan, image, partial(done.__setitem__, number))
        for number, image in enumerate(images)
    ]
    while wait(scans, _REPORT_EVERY_S).not_done:
        on_progress("scan", sum(done), total)
    on_progress("scan", total, total)
    return [one.result() for one in scans]


def _scan(image: ImageFile, report: Callable[[int], None]) -> Scan:
    state = hashlib.sha256()
    hashes = [np.empty(0, np.uint64)]
    for offset in range(0, image.size, _PIECE_BYTES):
        data = image.read(offset, min(_PIECE_BYTES, image.size - offset))
        state.update(data)
        hashes.append(hash_grains(data))
        report(offset + len(data))
    return Scan(Digest(state.digest()), np.concatenate(hashes))
