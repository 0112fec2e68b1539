"""pairing.py: the same path first, then the same but for versions, then the same name."""

import pytest

from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.pairing import pair_entries, pair_once


def _file(path: str, size: int = 100) -> Entry:
    return Entry(EntryKind.FILE, path, size, (Extent(0, size, 0),))


@pytest.mark.parametrize(
    ("sources", "target", "expected"),
    [
        (["a/b", "usr/bin/ls"], "usr/bin/ls", "usr/bin/ls"),
        # a kernel's folder, and its file
        (
            ["lib/modules/6.1.0-18-amd64/fs/ext4.ko", "other/ext4.ko"],
            "lib/modules/6.1.0-21-amd64/fs/ext4.ko",
            "lib/modules/6.1.0-18-amd64/fs/ext4.ko",
        ),
        (
            ["boot/vmlinuz-6.1.0-18-amd64"],
            "boot/vmlinuz-6.1.0-21-amd64",
            "boot/vmlinuz-6.1.0-18-amd64",
        ),
        (["usr/lib/libssl.so.3.0.11"], "usr/lib/libssl.so.3.0.13", "usr/lib/libssl.so.3.0.11"),
        # moved
        (["old/place/data.db"], "new/place/data.db", "old/place/data.db"),
        (["lib/firmware/a.bin"], "usr/lib/firmware/a.bin", "lib/firmware/a.bin"),
        # numbers that are no versions: the very name first
        (["m/ath9k.ko", "m/ath10k.ko", "m/ath11k.ko"], "m2/ath10k.ko", "m/ath10k.ko"),
        (["6.1/8139cp.ko", "6.1/8390.ko"], "6.2/8390.ko", "6.1/8390.ko"),
        (["etc/hostname"], "etc/passwd", None),
        ([], "etc/passwd", None),
    ],
)
def test_pairs(sources: list[str], target: str, expected: str | None) -> None:
    entries = [_file(path) for path in sources]
    (paired,) = pair_entries(entries, [_file(target)])
    assert (None if paired is None else sources[paired]) == expected


def test_the_nearest_size_is_taken_then_the_first() -> None:
    sources = [_file("1/a.ko", 500), _file("2/a.ko", 90), _file("3/a.ko", 90)]
    assert pair_entries(sources, [_file("4/a.ko", 100)]) == [1]
    assert pair_entries(sources, [_file("4/a.ko", 400)]) == [0]


def test_a_source_may_serve_several_targets() -> None:
    sources = [_file("x/a.txt")]
    assert pair_entries(sources, [_file("x/a.txt"), _file("y/a.txt")]) == [0, 0]


def test_tables_pair_with_tables() -> None:
    sources = [_file("inode table"), Entry(EntryKind.TABLE, "inode table", 5, ())]
    target = Entry(EntryKind.TABLE, "inode table", 100, ())
    assert pair_entries(sources, [target]) == [1]


def test_a_source_that_is_to_serve_one_target_serves_that_of_its_path() -> None:
    sources = [_file("usr/lib/libx.so.1"), _file("usr/lib/liby.so.1")]
    targets = [
        _file("opt/lib/libx.so.1"),
        _file("opt/lib/liby.so.1"),
        _file("usr/lib/libx.so.1"),
        _file("srv/lib/liby.so.1"),
    ]
    assert pair_entries(sources, targets) == [0, 1, 0, 1]
    assert list(pair_once(sources, targets)) == [(1, 1), (0, 2)]
