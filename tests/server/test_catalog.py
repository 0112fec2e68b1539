"""The repository's metadata as the server reads it: bounded, and one bad entry hides no other."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import TIMESTAMP_BYTES_MAX
from slipstream.server.catalog import CatalogReader, DeltaOffer, ImageOffer, read_catalog

ROOT_1, ROOT_2 = "1" * 64, "2" * 64


def test_releases_with_sizes_and_deltas(folder):
    folder.release("1.0", 1)
    folder.full("1.0", "rootfs", ROOT_1, b"x" * 100)
    folder.release("2.0", 2)
    index = folder.full("2.0", "rootfs", ROOT_2, b"y" * 200)
    folder.delta("2.0", "rootfs", ROOT_1, ROOT_2, 30)
    folder.delta("2.0", "rootfs", "3" * 64, ROOT_2, 40)
    folder.write()
    catalog = read_catalog(folder.public)
    assert [one.release for one in catalog.releases] == ["2.0", "1.0"]
    newest = catalog.newest("gateway", "stable")
    assert newest is catalog.releases[0]
    assert newest.images == (ImageOffer("rootfs", ROOT_2, 200),)
    assert newest.deltas == (
        DeltaOffer("rootfs", ROOT_1, "1.0", 30),
        DeltaOffer("rootfs", "3" * 64, None, 40),
    )
    assert catalog.newest("gateway", "beta") is None
    assert catalog.newest("other", "stable") is None
    assert (catalog.expires, catalog.skipped) == (folder.expires, 0)
    (folder.public / "blobs" / f"{index}.payload").unlink()
    assert read_catalog(folder.public).releases[0].images[0].payload_bytes is None


BAD = [
    None,
    [],
    {},
    {"product": "gateway", "release": "9.0", "counter": 0, "channel": "stable"},
    {"product": "gateway", "release": "9.0", "counter": 1 << 31, "channel": "stable"},
    {"product": "gateway", "release": "9.0", "counter": "9", "channel": "stable"},
    {"product": "gateway", "release": "8.0", "counter": 9, "channel": "stable"},
    {"product": "g" * 65, "release": "9.0", "counter": 9, "channel": "stable"},
]


@pytest.mark.parametrize("custom", BAD)
def test_an_entry_that_makes_no_sense_is_left_out(folder, custom):
    folder.release("1.0", 1)
    folder.targets["releases/9.0/manifest.json"] = {
        "length": 1,
        "hashes": {"sha256": "0" * 64},
        "custom": custom,
    }
    folder.write()
    catalog = read_catalog(folder.public)
    assert [one.release for one in catalog.releases] == ["1.0"]
    assert catalog.skipped == 1


def test_a_blob_outside_is_not_measured(folder):
    folder.release("1.0", 1)
    folder.full("1.0", "rootfs", ROOT_1, b"")
    folder.targets["releases/1.0/rootfs.full"]["hashes"]["sha256"] = "../../../etc/passwd"
    folder.write()
    assert read_catalog(folder.public).releases[0].images[0].payload_bytes is None


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
@pytest.mark.parametrize(
    "damage",
    [
        None,
        b"",
        b"{}",
        b"[" * 10_000,
        b'{"signed": {"targets": {"releases/x": {}}, "meta": {}, "expires": ""}}',
        b'{"signed": {"meta": {"snapshot.json": {"version": "../1"}}, "expires": ""}}',
    ],
)
def test_metadata_that_cannot_be_read_is_unavailable(folder, name, damage):
    path = folder.public / "metadata" / name
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(Unavailable, match="cannot be read"):
        read_catalog(folder.public)


def test_metadata_that_is_too_large_is_unavailable(folder):
    path = folder.public / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes() + b" " * TIMESTAMP_BYTES_MAX)
    with pytest.raises(Unavailable, match="larger than"):
        read_catalog(folder.public)


@settings(deadline=None)  # other work may hold the processor
@given(raw=st.binary(max_size=200) | st.from_type(dict).map(lambda one: json.dumps(one).encode()))
def test_hostile_bytes_raise_only_our_error(raw, tmp_path_factory):
    public = tmp_path_factory.getbasetemp() / "hostile"
    (public / "metadata").mkdir(parents=True, exist_ok=True)
    (public / "metadata" / "timestamp.json").write_bytes(raw)
    with pytest.raises(Unavailable):
        read_catalog(public)


def test_it_is_read_again_only_when_the_timestamp_is_another_file(folder):
    async def test():
        reader = CatalogReader(folder.public)
        first = await reader.read()
        assert await reader.read() is first
        folder.release("1.0", 1)
        folder.write()
        second = await reader.read()
        assert [one.release for one in second.releases] == ["1.0"]

    asyncio.run(test())
