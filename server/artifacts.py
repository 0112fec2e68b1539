"""Artifacts of a release: files that another updater installs, published as they are.

A .swu for SWUpdate, a .raucb for RAUC, anything else. The file becomes a blob named by its SHA-256;
a TUF target describes it (delta/entries.py). What is in it is its own updater's business: that
checks the signature inside.
"""

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import msgspec
from tuf.api.metadata import TargetFile, Targets

from slipstream.delta.digest import Digest
from slipstream.delta.entries import ArtifactEntry, dump_entry, parse_artifact_entry
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.layout import artifact_blob, artifact_path
from slipstream.delta.limits import MIB
from slipstream.server.metadata import target_file
from slipstream.server.progress import Progress
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest


def take_in(
    repo: Repository, request: ReleaseRequest, on_progress: Progress
) -> tuple[ArtifactEntry, ...]:
    """Copy the artifacts of a request to REPO/work/, each read once: their descriptions.

    UsageError for a file that is empty or cannot be read, OSError for a disk that fails.
    """
    return tuple(
        _take_in(repo, name, path, partial(on_progress, f"copy {name}"))
        for name, path in sorted(request.artifacts.items())
    )


def keep(repo: Repository, entries: Iterable[ArtifactEntry]) -> None:
    """Give what was taken in its final name, durably; nobody knows of it before it is signed for."""
    for entry in entries:
        blob = repo.blob(artifact_blob(entry.sha256))
        if not blob.exists():
            repo.disk.rename(_copy(repo, entry.artifact), blob)


def _copy(repo: Repository, name: str) -> Path:
    return repo.work / f"{name}.artifact"


def _take_in(repo: Repository, name: str, path: Path, on_progress: partial[None]) -> ArtifactEntry:
    copy = _copy(repo, name)
    sha256, sha1, md5 = (
        hashlib.new(kind, usedforsecurity=kind == "sha256") for kind in ("sha256", "sha1", "md5")
    )
    done = 0
    try:
        source = path.open("rb")
    except OSError as error:
        raise UsageError(f"artifact cannot be read: {error.strerror}", where=path) from error
    with source, copy.open("wb") as target:
        total = os.fstat(source.fileno()).st_size
        while piece := source.read(MIB):
            for digest in (sha256, sha1, md5):
                digest.update(piece)
            target.write(piece)
            done += len(piece)
            on_progress(done, max(done, total))
        target.flush()
        os.fsync(target.fileno())
    copy.chmod(0o644)  # whatever the umask is: a web server has to read it
    try:
        return ArtifactEntry(
            artifact=name,
            file_name=path.name,
            artifact_bytes=done,
            sha256=Digest(sha256.digest()),
            sha1=sha1.hexdigest(),
            md5=md5.hexdigest(),
        )
    except FormatError as error:
        raise UsageError(str(error), where=path) from error


def list_artifacts(targets: Targets, version: str) -> tuple[ArtifactEntry, ...]:
    """The artifacts of a published release, by name. FormatError for an entry that is none."""
    prefix, suffix = artifact_path(version, "").rsplit(".", 1)
    found = [
        parse_artifact_entry(target.custom)
        for path, target in targets.targets.items()
        if path.startswith(prefix) and path.endswith(f".{suffix}")
    ]
    return tuple(sorted(found, key=lambda entry: entry.artifact))


def describe(version: str, entries: Iterable[ArtifactEntry]) -> list[tuple[TargetFile, bytes]]:
    """The TUF targets of artifacts, each with its bytes: canonical JSON of what `custom` says."""
    made = []
    for entry in entries:
        custom = dump_entry(entry)
        raw = msgspec.json.encode(custom, order="sorted")
        made.append((target_file(artifact_path(version, entry.artifact), raw, custom), raw))
    return made
