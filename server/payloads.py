"""The payloads of a release: built, or taken up from a run that was killed, and named by digest.

A payload counts as finished when its blob has its final name and release.json says so. A delta that
is not smaller than the full payload is not published: a device would gain nothing by it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from slipstream.delta.digest import Digest
from slipstream.delta.entries import ArtifactEntry, DeltaEntry, FullEntry, ReleaseEntry, dump_entry
from slipstream.delta.errors import Rejected, UsageError
from slipstream.delta.layout import (
    chunks_blob,
    delta_path,
    full_path,
    manifest_path,
    payload_blob,
)
from slipstream.delta.manifest import ImageEntry, Manifest, PayloadRef, dump_manifest
from slipstream.delta.payload import Index
from slipstream.server.artifacts import describe
from slipstream.server.build import build_payload
from slipstream.server.metadata import target_file
from slipstream.server.progress import Progress
from slipstream.server.releases import (
    Record,
    ScannedImage,
    find_source,
    published_index,
    write_record,
)
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest
from slipstream.server.sign import InForce


@dataclass(frozen=True, slots=True)
class DeltaMade:
    """A delta that was asked for. `index` is None where none is published, `why` says the reason."""

    image: str
    source: str  # version
    entry: DeltaEntry | None
    index: Index | None
    why: str = ""

    @property
    def published(self) -> bool:
        return self.index is not None


@dataclass(frozen=True, slots=True)
class Payloads:
    """Builds the payloads of one release."""

    repo: Repository
    record: Record
    scanned: Mapping[str, ScannedImage]
    request: ReleaseRequest
    on_progress: Progress

    def build_full(self, draft: Manifest, before: Manifest | None) -> Manifest:
        """Build the full payload and the chunk list of every image; the manifest that names them.

        `before` is an earlier release: frames that its full payloads share are copied from them.
        """
        images = []
        for image in draft.images:
            self._write_chunks(image)
            path = full_path(draft.release, image.name)
            index = self._build(path, f"full {image.name}", None, image, self._reuse(image, before))
            if index is None:
                raise AssertionError("a full payload has no limit")
            full = PayloadRef(index.digest, len(index.raw), index.payload_size)
            images.append(replace(image, full=full))
        return replace(draft, images=tuple(images))

    def build_deltas(
        self, manifest: Manifest, sources: Sequence[Manifest], published: Targets
    ) -> list[DeltaMade]:
        """Build a delta for every image and source release, but for those that are published."""
        made: dict[str, DeltaMade] = {}
        for source in sources:
            for image in manifest.images:
                known = {old.name: old for old in source.images}
                if image.name not in known:
                    continue
                root = known[image.name].tree.root
                path = delta_path(manifest.release, image.name, root)
                if path not in published.targets and path not in made:
                    made[path] = self._build_delta(path, image, source, known[image.name])
        return list(made.values())

    def _build_delta(
        self, path: str, image: ImageEntry, source: Manifest, source_image: ImageEntry
    ) -> DeltaMade:
        if source_image.tree.root == image.tree.root:
            return DeltaMade(image.name, source.release, None, None, "the image is the same")
        what = f"delta {image.name} from {source.release}"
        index = self._build(path, what, (source.release, source_image), image)
        if index is None:
            return DeltaMade(image.name, source.release, None, None, "the full payload is smaller")
        entry = DeltaEntry(
            image=image.name,
            source_root=source_image.tree.root,
            target_root=image.tree.root,
            payload_bytes=index.payload_size,
            memory_bytes=index.memory_bytes,
            libraries=", ".join(index.libraries),
        )
        return DeltaMade(image.name, source.release, entry, index)

    def _build(
        self,
        path: str,
        what: str,
        source: tuple[str, ImageEntry] | None,
        image: ImageEntry,
        reuse: Path | None = None,
    ) -> Index | None:
        """The index of the payload for the target `path`; None when it is not worth having."""
        if path in self.record.payloads:
            digest = self.record.payloads[path]
            if digest is None:
                return None
            with suppress(OSError, Rejected):  # gone, or not what it was: built again
                return self._checked(published_index(self.repo, Digest.parse_hex(digest)), image)
        output = self.repo.work / "payload"
        source_path = None if source is None else find_source(self.repo, *source)
        built = build_payload(
            source_path,
            self.scanned[image.name].path,
            output,
            jobs=self.request.jobs,
            memory_bytes=self.request.memory_bytes,
            profile=self.request.profile,
            on_progress=partial(self._tell, what),
            reuse=reuse,
        )
        index = self._checked(built.index, image)
        if source is not None:
            full = published_index(self.repo, source[1].full.index)
            check_digest(source_path, full.target_digest, index.source_digest)
        if source is not None and built.payload_size >= image.full.payload_size:
            self.record.payloads[path] = None
        else:
            output.chmod(0o644)  # whatever the umask is: a web server has to read it
            self.repo.disk.rename(output, self.repo.blob(payload_blob(index.digest)))
            self.record.payloads[path] = index.digest.hex
        write_record(self.repo, self.record)
        return index if self.record.payloads[path] else None

    def _tell(self, what: str, phase: str, done: int, total: int) -> None:
        self.on_progress(what if phase == "encode" else f"{what}: {phase}", done, total)

    def _checked(self, index: Index, image: ImageEntry) -> Index:
        """The payload must make the very bytes that the tree was made of."""
        scanned = self.scanned[image.name]
        scanned.check_unchanged()
        check_digest(scanned.path, scanned.digest, index.target_digest)
        return index

    def _reuse(self, image: ImageEntry, before: Manifest | None) -> Path | None:
        for old in before.images if before else ():
            blob = self.repo.blob(payload_blob(old.full.index))
            if old.name == image.name and blob.exists():
                return blob
        return None

    def _write_chunks(self, image: ImageEntry) -> None:
        blob = self.repo.blob(chunks_blob(image.chunks))
        if not blob.exists():
            self.repo.disk.write(blob, self.scanned[image.name].tree.chunk_list)


def check_digest(path: Path | None, expected: Digest, got: Digest | None) -> None:
    """UsageError where a payload names another image than the one at `path`."""
    if got != expected:
        raise UsageError(
            "payload was not built from the image it names", where=path, expected=expected, got=got
        )


def write_targets(
    repo: Repository,
    current: InForce,
    manifest: Manifest,
    deltas: Sequence[DeltaMade],
    artifacts: Sequence[ArtifactEntry] = (),
) -> tuple[Targets | None, Targets | None]:
    """Write the TUF target files, and return the contents that name them.

    (targets, deltas); None for a role that has nothing new.
    """
    targets = deepcopy(current.targets.signed)
    if manifest_path(manifest.release) not in targets.targets:
        for image in manifest.images:
            raw = published_index(repo, image.full.index).raw
            custom = dump_entry(FullEntry(image.name, image.tree.root))
            _add(
                repo,
                targets,
                target_file(full_path(manifest.release, image.name), raw, custom),
                raw,
            )
        for target, raw in describe(manifest.release, artifacts):
            _add(repo, targets, target, raw)
        raw = dump_manifest(manifest)
        entry = ReleaseEntry(manifest.product, manifest.release, manifest.counter, manifest.channel)
        _add(
            repo, targets, target_file(manifest_path(manifest.release), raw, dump_entry(entry)), raw
        )
    delta_targets = deepcopy(current.deltas.signed)
    for delta in deltas:
        if delta.index is not None and delta.entry is not None:
            path = delta_path(manifest.release, delta.image, delta.entry.source_root)
            raw = delta.index.raw
            _add(repo, delta_targets, target_file(path, raw, dump_entry(delta.entry)), raw)
    return (
        targets if targets != current.targets.signed else None,
        delta_targets if delta_targets != current.deltas.signed else None,
    )


def _add(repo: Repository, contents: Targets, target: TargetFile, raw: bytes) -> None:
    file = repo.target(target.path, target.hashes["sha256"])
    if not file.exists():
        repo.disk.make_folder(file.parent)
        repo.disk.write(file, raw)
    contents.targets[target.path] = target
