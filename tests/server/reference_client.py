"""The reference TUF client on a repository's public folder: what the publisher must satisfy.

python-tuf's own ngclient, with a fetcher that reads files as a static web server would give them.
It keeps its trusted metadata between calls, so it also sees every rollback.
"""

from collections.abc import Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from slipstream.delta.digest import Digest
from slipstream.delta.entries import parse_delta_entry
from slipstream.delta.layout import chunks_blob, delta_path, full_path, manifest_path, payload_blob
from slipstream.delta.manifest import Manifest, parse_manifest
from slipstream.delta.payload import parse_index
from slipstream.delta.tree import verify_chunk_list


class FileFetcher(FetcherInterface):
    """`public/` under the address `file:/`; what is not there is a 404."""

    def __init__(self, public: Path) -> None:
        self._public = public

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield (self._public / url.removeprefix("file:/")).read_bytes()
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{url}: not found", 404) from error


class ReferenceClient:
    """A client with a memory, begun with root version 1."""

    def __init__(self, public: Path, state: Path) -> None:
        self.public = public
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        self._root = (public / "metadata" / "1.root.json").read_bytes()

    def refresh(self) -> Updater:
        updater = Updater(
            str(self.state),
            "file:/metadata/",
            target_dir=str(self.state),
            target_base_url="file:/targets/",
            fetcher=FileFetcher(self.public),
            bootstrap=self._root,
        )
        updater.refresh()
        return updater

    def releases(self) -> dict[str, int]:
        """Versions on offer with their counters, after fetching and checking all that they name.

        Manifest, chunk lists, full payloads: target, blob and digest of each have to be right.
        """
        updater = self.refresh()
        signed = updater._trusted_set.targets.targets
        found = {}
        for path in signed:
            if path.endswith("/manifest.json"):
                manifest = parse_manifest(self.fetch(updater, path))
                assert path == manifest_path(manifest.release)
                self._check_payloads(updater, manifest)
                found[manifest.release] = manifest.counter
        return found

    def delta_size(self, manifest: Manifest, image: str, source_root: Digest) -> int | None:
        """Bytes of the delta from the image with that root; None when none is on offer."""
        updater = self.refresh()
        path = delta_path(manifest.release, image, source_root)
        info = updater.get_targetinfo(path)
        if info is None:
            return None
        entry = parse_delta_entry(info.custom)
        index = parse_index(self.fetch(updater, path))
        blob = self.public / payload_blob(index.digest)
        assert blob.stat().st_size == entry.payload_bytes == index.payload_size
        assert entry.source_root == source_root
        assert entry.target_root == manifest.image(image).tree.root
        assert entry.memory_bytes == index.memory_bytes
        return entry.payload_bytes

    def fetch(self, updater: Updater, path: str) -> bytes:
        info = updater.get_targetinfo(path)
        assert info is not None, path
        file = self.state / "target"
        file.unlink(missing_ok=True)
        return Path(updater.download_target(info, str(file))).read_bytes()

    def _check_payloads(self, updater: Updater, manifest: Manifest) -> None:
        for image in manifest.images:
            raw = self.fetch(updater, full_path(manifest.release, image.name))
            index = parse_index(raw)
            assert index.digest == image.full.index
            assert len(raw) == image.full.index_size
            blob = (self.public / payload_blob(index.digest)).read_bytes()
            assert blob.startswith(raw)
            assert len(blob) == image.full.payload_size == index.payload_size
            chunks = (self.public / chunks_blob(image.chunks)).read_bytes()
            image.chunks.check(chunks, "chunk list")
            verify_chunk_list(chunks, image.tree)
