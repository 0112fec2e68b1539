"""A delta between two releases that are published: built beside the repository, then put in force.

Other than `publish`, which holds the repository's lock for as long as it builds, this takes it only
to sign: a release can be published meanwhile. It needs the online keys (deltas, snapshot,
timestamp), never an offline one. Killed at any point and called again it goes on.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from slipstream.delta.entries import DeltaEntry
from slipstream.delta.errors import Busy, UsageError
from slipstream.delta.layout import DELTAS_ROLE, delta_path, payload_blob
from slipstream.delta.limits import MIB
from slipstream.delta.manifest import ImageEntry, Manifest
from slipstream.delta.payload import Index
from slipstream.server.build import build_payload
from slipstream.server.keys import KeyRing, Passphrases
from slipstream.server.payloads import DeltaMade, check_digest, write_targets
from slipstream.server.progress import Progress, unwatched
from slipstream.server.releases import (
    find_source,
    list_releases,
    published_index,
    read_manifest,
)
from slipstream.server.repo import Repository, locked
from slipstream.server.sign import InForce, Signing, put_in_force, read_in_force

_LOOK_S = 0.5  # between tries for the repository's lock


@dataclass(frozen=True, slots=True)
class LateDelta:
    """The delta that is wanted, and how it is built.

    `folder` holds what is being built, and images that had to be made again.
    """

    source: str  # version
    target: str
    folder: Path
    profile: str = "balanced"
    memory_bytes: int = 96 * MIB
    jobs: int | None = None
    wait_s: float = 600.0  # for another publisher to be done


def add_delta(
    repo: Repository,
    wanted: LateDelta,
    *,
    passphrases: Passphrases,
    now: datetime,
    keys: Sequence[Path] = (),
    on_progress: Progress = unwatched,
) -> tuple[DeltaMade, ...]:
    """Make the target release reachable from the source by delta, for every image that differs.

    Returns what was made now: nothing where every image has its delta. Raises UsageError (unknown
    releases, keys), Busy (another publisher for longer than wait_s), Rejected, OSError.
    """
    signing = Signing(repo, KeyRing((repo.keys, *keys), passphrases), now)
    current = read_in_force(repo)
    _check_keys(signing, current)
    source, target = (_manifest(repo, current, one) for one in (wanted.source, wanted.target))
    wanted.folder.mkdir(parents=True, exist_ok=True)
    made = tuple(
        _build(repo, wanted, before, image, on_progress)
        for before, image in _missing(current, source, target)
    )
    if any(one.published for one in made):
        _put_in_force(repo, signing, target, made, wanted.wait_s)
    return made


def check_delta_keys(
    repo: Repository, *, passphrases: Passphrases, now: datetime, keys: Sequence[Path] = ()
) -> None:
    """UsageError unless the keys that sign deltas are there and can be read."""
    signing = Signing(repo, KeyRing((repo.keys, *keys), passphrases), now)
    _check_keys(signing, read_in_force(repo))


def _manifest(repo: Repository, current: InForce, version: str) -> Manifest:
    known = list_releases(current.targets.signed)
    if version not in known:
        raise UsageError(
            f"no release {version!r}", where=repo.path, expected=", ".join(known) or "none"
        )
    return read_manifest(repo, current.targets.signed, version)


def _check_keys(signing: Signing, current: InForce) -> None:
    """A build of an hour that nobody may sign is told before it begins."""
    signing.signers(current.targets.signed, DELTAS_ROLE)
    for role in ("snapshot", "timestamp"):
        signing.signers(current.root.signed, role)


def _missing(
    current: InForce, source: Manifest, target: Manifest
) -> list[tuple[ImageEntry, ImageEntry]]:
    """The images that differ and have no delta yet: (source's, target's)."""
    known = {image.name: image for image in source.images}
    return [
        (known[image.name], image)
        for image in target.images
        if image.name in known
        and known[image.name].tree.root != image.tree.root
        and delta_path(target.release, image.name, known[image.name].tree.root)
        not in current.deltas.signed.targets
    ]


def _build(
    repo: Repository,
    wanted: LateDelta,
    before: ImageEntry,
    image: ImageEntry,
    on_progress: Progress,
) -> DeltaMade:
    source = find_source(repo, wanted.source, before, wanted.folder)
    target = find_source(repo, wanted.target, image, wanted.folder)
    output = wanted.folder / f"{image.name}.payload"
    built = build_payload(
        source,
        target,
        output,
        jobs=wanted.jobs,
        memory_bytes=wanted.memory_bytes,
        profile=wanted.profile,
        on_progress=partial(_tell, on_progress, image.name),
    )
    index: Index = built.index
    for path, one, digest in (
        (source, before, index.source_digest),
        (target, image, index.target_digest),
    ):
        check_digest(path, published_index(repo, one.full.index).target_digest, digest)
    if built.payload_size >= image.full.payload_size:
        output.unlink()
        return DeltaMade(image.name, wanted.source, None, None, "the full payload is smaller")
    output.chmod(0o644)  # whatever the umask is: a web server has to read it
    repo.disk.rename(output, repo.blob(payload_blob(index.digest)))
    entry = DeltaEntry(
        image=image.name,
        source_root=before.tree.root,
        target_root=image.tree.root,
        payload_bytes=index.payload_size,
        memory_bytes=index.memory_bytes,
        libraries=", ".join(index.libraries),
    )
    return DeltaMade(image.name, wanted.source, entry, index)


def _put_in_force(
    repo: Repository,
    signing: Signing,
    target: Manifest,
    made: Sequence[DeltaMade],
    wait_s: float,
) -> None:
    give_up = time.monotonic() + wait_s
    while True:
        try:
            with locked(repo):
                # What is in force may have changed while this was built.
                current = read_in_force(repo)
                _, deltas = write_targets(repo, current, target, made)
                put_in_force(signing, current, targets=None, deltas=deltas)
            return
        except Busy:
            if time.monotonic() > give_up:
                raise
            time.sleep(_LOOK_S)


def _tell(on_progress: Progress, name: str, phase: str, done: int, total: int) -> None:
    on_progress(f"delta {name}" if phase == "encode" else f"delta {name}: {phase}", done, total)
