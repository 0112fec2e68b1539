"""One image on its way into a slot, below the level of a whole install.

rig = Rig(tmp_path, image, source, standing)     payloads made by lab.make_payload, or `delta`
assert rig.run()[: len(image)] == image
rig.words, rig.fetcher.streamed, rig.writer.counts
"""

import asyncio
from pathlib import Path

from slipstream.delta.layout import payload_blob
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.payload import Index
from slipstream.delta.tree import ChunkList, tree_of, verify_chunk_list
from slipstream.installer.config import PartitionPlace
from slipstream.installer.journal import Journal
from slipstream.installer.slot import Target, open_partition, open_source
from slipstream.installer.stream import ImageWriter, Payloads
from tests.installer.lab import SALT, LabFetcher, make_payload


def ignore(*_: object) -> None:
    pass


def chunks_of(image: bytes) -> ChunkList:
    tree = tree_of([image], SALT)
    return verify_chunk_list(tree.chunk_list, tree.tuple)


def place(folder: Path, name: str, data: bytes, size: int = 4 * CHUNK_BYTES) -> Target:
    path = folder / name
    path.write_bytes(data.ljust(size, b"\0"))
    return open_partition(PartitionPlace(path), f"b/{name}", 1, [])


class Rig:
    """One image on its way from a payload in memory to a place in a folder."""

    def __init__(
        self,
        folder: Path,
        image: bytes,
        source: bytes,
        standing: bytes,
        delta: tuple[Index, bytes] | None = None,
    ) -> None:
        self.delta, delta_payload = delta or make_payload(image, source)
        self.full, full_payload = make_payload(image, None)
        self.fetcher = LabFetcher(
            {
                payload_blob(self.delta.digest): delta_payload,
                payload_blob(self.full.digest): full_payload,
            }
        )
        self.folder = folder
        chunks = chunks_of(image)
        self.target = place(folder, "target", standing, max(4, chunks.count) * CHUNK_BYTES)
        (folder / "source").write_bytes(source)
        self.source = open_source(PartitionPlace(folder / "source"), "a/rootfs")
        self.journal = Journal(folder, ignore)
        self.words: list[str] = []
        self.writer = ImageWriter(
            name="rootfs",
            transaction="id",
            target=self.target,
            chunks=chunks,
            payloads=Payloads((self.delta, self.source), self._full, self.full.digest),
            fetcher=self.fetcher,
            journal=self.journal,
            spool=folder / "spool",
            say=self.words.append,
            on_progress=ignore,
        )

    async def _full(self) -> Index:
        return self.full

    def run(self) -> bytes:
        try:
            asyncio.run(self.writer.run())
        finally:
            self.target.close()
            self.source.close()
        return (self.folder / "target").read_bytes()

    def sent(self, index: Index) -> int:
        """Bytes of a payload that crossed the link."""
        path = payload_blob(index.digest)
        return sum(size for streamed, size in self.fetcher.streamed if streamed == path)
