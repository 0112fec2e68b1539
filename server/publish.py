"""The main job of the build machine: images become a signed release.

`publish` is the whole of it on one screen. It may be killed at any point: everything is written
under names that nobody knows yet, and made known by one write, the timestamp's (sign.py). Called
again with the same input it takes up what was finished; called once more, it changes nothing.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from slipstream.delta.digest import Digest
from slipstream.delta.entries import ArtifactEntry
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.layout import DELTAS_ROLE
from slipstream.delta.manifest import BootEntryTemplate, ImageEntry, Manifest, PayloadRef
from slipstream.server.artifacts import keep, list_artifacts, take_in
from slipstream.server.boot_files import BootFiles, check_boot_files
from slipstream.server.image_names import check_image_names, read_last
from slipstream.server.keys import KeyRing, Passphrases
from slipstream.server.payloads import DeltaMade, Payloads, write_targets
from slipstream.server.progress import Progress
from slipstream.server.releases import (
    ScannedImage,
    list_releases,
    menu_keys,
    read_manifest,
    scan_image,
    take_up_record,
)
from slipstream.server.repo import Repository, locked
from slipstream.server.request import ReleaseRequest
from slipstream.server.secure_boot import load_certificates
from slipstream.server.sign import InForce, Signing, put_in_force, read_in_force

_UNKNOWN_PAYLOAD = PayloadRef(Digest(bytes(32)), 1, 1)


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did. `already`: the release was there; only `deltas` made now are new.

    `notes`: what the publisher should know of how the release boots.
    """

    manifest: Manifest
    already: bool
    deltas: tuple[DeltaMade, ...]
    notes: tuple[str, ...] = ()
    artifacts: tuple[ArtifactEntry, ...] = ()


def publish(
    repo: Repository,
    request: ReleaseRequest,
    *,
    passphrases: Passphrases,
    now: datetime,
    keys: Sequence[Path] = (),
    on_progress: Progress = lambda _what, _done, _total: None,
) -> Published:
    """Publish a release, or add deltas to one that is published with the same contents.

    A version is immutable: other contents under a published version are refused. Raises UsageError
    (what was asked for, keys), Busy (another publisher), Rejected (the repository was tampered
    with), OSError.
    """
    with locked(repo):
        signing = Signing(repo, KeyRing((repo.keys, *keys), passphrases), now)
        current = read_in_force(repo)
        sources = _read_sources(repo, current, request)
        published = _published(repo, current, request.version)
        last = read_last(repo, current.targets.signed, request.channel, besides=request.version)
        if published is None and not request.change_images:
            check_image_names(request.images, last, f"release {request.version}")
        shutil.rmtree(repo.work, ignore_errors=True)  # what a killed publish left
        repo.disk.make_folder(repo.work)
        scanned = _scan_images(repo, request, on_progress)
        artifacts = take_in(repo, request, on_progress)
        record = take_up_record(repo, request.version, scanned, request.settings, now)
        newest = _newest(repo, current, request.channel)
        draft = _draft(
            repo, current, request, scanned, before=published or newest, issued=record.issued
        )
        if published is not None:
            _check_same(published, draft)
            _check_same_artifacts(current, request.version, artifacts)
        boots = _check_boot_files(repo, current, request, draft, first=last is None)
        record.menu = boots.key
        _check_keys(signing, current, new=published is None, deltas=bool(sources))

        if published is None:
            keep(repo, artifacts)
        payloads = Payloads(repo, record, scanned, request, on_progress)
        manifest = published or payloads.build_full(draft, newest)
        deltas = payloads.build_deltas(manifest, sources, current.deltas.signed)
        if published is None or any(made.published for made in deltas):
            targets, delta_targets = write_targets(repo, current, manifest, deltas, artifacts)
            put_in_force(signing, current, targets=targets, deltas=delta_targets)
        shutil.rmtree(repo.work, ignore_errors=True)
        return Published(manifest, published is not None, tuple(deltas), boots.notes, artifacts)


def _read_sources(repo: Repository, current: InForce, request: ReleaseRequest) -> list[Manifest]:
    known = list_releases(current.targets.signed)
    for version in request.delta_from:
        if version not in known or version == request.version:
            raise UsageError(
                f"no release {version!r} to make a delta from",
                expected=", ".join(other for other in known if other != request.version) or "none",
            )
    versions = dict.fromkeys(request.delta_from)
    return [read_manifest(repo, current.targets.signed, version) for version in versions]


def _scan_images(
    repo: Repository, request: ReleaseRequest, on_progress: Progress
) -> dict[str, ScannedImage]:
    return {
        name: scan_image(path, repo.policy.salt, partial(on_progress, f"hash {name}"))
        for name, (_, path) in request.images.items()
    }


def _draft(
    repo: Repository,
    current: InForce,
    request: ReleaseRequest,
    scanned: Mapping[str, ScannedImage],
    *,
    before: Manifest | None,
    issued: int,
) -> Manifest:
    """The manifest but for its payloads: mistakes in the request come out before hours of work.

    `before` gives counter and floor where the request does not: the same release if it is
    published, else the newest of its channel.
    """
    known = list_releases(current.targets.signed).values()
    counter = request.counter
    if counter is None and before is not None and before.release == request.version:
        counter = before.counter
    elif counter is None:
        counter = 1 + max((entry.counter for entry in known), default=0)
    for entry in known:
        if entry.counter == counter and entry.release != request.version:
            raise UsageError(f"counter {counter} is that of release {entry.release}")
    floor = request.floor
    if floor is None:
        floor = min(before.floor if before else 1, counter)
    options = request.options
    for name, image in scanned.items():
        options = options.replace(f"{{{name}.root}}", image.tree.tuple.root.hex)
    images = tuple(
        ImageEntry(
            name=name,
            place=request.images[name][0],
            tree=image.tree.tuple,
            chunks=Digest.of(image.tree.chunk_list),
            full=_UNKNOWN_PAYLOAD,
        )
        for name, image in scanned.items()
    )
    title = request.title or f"{repo.policy.product} {request.version}"
    try:
        return Manifest(
            product=repo.policy.product,
            release=request.version,
            counter=counter,
            floor=floor,
            channel=request.channel,
            hardware=tuple(request.hardware),
            issued=issued,
            notes=request.notes,
            images=images,
            boot=BootEntryTemplate(title, options),
        )
    except FormatError as error:
        raise UsageError(str(error), where=f"release {request.version}") from error


def _check_boot_files(
    repo: Repository, current: InForce, request: ReleaseRequest, draft: Manifest, *, first: bool
) -> BootFiles:
    """How the draft boots; Rejected or UsageError where it would not."""
    known = list_releases(current.targets.signed).values()
    earlier = [e for e in known if e.channel == draft.channel and e.counter < draft.counter]
    own = [repo.uki_certs] if repo.uki_certs.exists() else []
    return check_boot_files(
        draft,
        {name: path for name, (_, path) in request.images.items()},
        certificates=load_certificates([*own, *request.uki_certs]),
        earlier=menu_keys(repo, earlier),
        first=first,
    )


def _published(repo: Repository, current: InForce, version: str) -> Manifest | None:
    """The manifest that is published under `version`, if one is."""
    if version not in list_releases(current.targets.signed):
        return None
    return read_manifest(repo, current.targets.signed, version)


def _newest(repo: Repository, current: InForce, channel: str) -> Manifest | None:
    """The manifest of the channel's release with the highest counter."""
    known = [e for e in list_releases(current.targets.signed).values() if e.channel == channel]
    return read_manifest(repo, current.targets.signed, known[-1].release) if known else None


def _check_same(published: Manifest, draft: Manifest) -> None:
    """UsageError unless the draft says what is published, but for when it was made."""
    same = replace(
        published,
        issued=draft.issued,
        images=tuple(replace(image, full=_UNKNOWN_PAYLOAD) for image in published.images),
    )
    fields = [name for name in Manifest.__slots__ if getattr(same, name) != getattr(draft, name)]
    if fields:
        raise UsageError(
            f"release {draft.release} is published with other contents",
            expected="the same " + ", ".join(fields),
            hint="A version never changes: publish under a new one",
        )


def _check_same_artifacts(
    current: InForce, version: str, artifacts: tuple[ArtifactEntry, ...]
) -> None:
    published = list_artifacts(current.targets.signed, version)
    if published != artifacts:
        names = ", ".join(f"{one.artifact}={one.file_name}" for one in published)
        raise UsageError(
            f"release {version} is published with other artifacts",
            expected=f"the same bytes as {names}" if names else "none",
            hint="A version never changes: publish under a new one",
        )


def _check_keys(signing: Signing, current: InForce, *, new: bool, deltas: bool) -> None:
    for role in ["targets"] * new + [DELTAS_ROLE] * deltas + ["snapshot", "timestamp"]:
        delegator = current.targets.signed if role == DELTAS_ROLE else current.root.signed
        signing.signers(delegator, role)
