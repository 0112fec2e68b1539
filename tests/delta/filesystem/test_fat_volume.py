"""The volume as it is: names, slots, chains; damaged ones against fsck.vfat; hostile bytes."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.fat_layout import RECORD_BYTES
from slipstream.delta.filesystem.fat_volume import ChainEnd, read_fat_volume, read_file
from tests.delta.filesystem.plain_images import MIB
from tests.installer.boot.esp_images import END, EspImage

LINUX = "EFI/Linux"
FILES = {
    f"{LINUX}/0041a.efi": b"a" * 5000,
    f"{LINUX}/0042b+3-0.efi": b"b" * 7000,
    f"{LINUX}/.0042b.tmp": b"",
    f"{LINUX}/a name of more than twenty-six characters.efi": b"c" * 600,
    "loader/loader.conf": b"timeout 0\n",
}
KINDS = [
    ("-F 12 -s 1", MIB, "FAT12, 512-byte clusters"),
    ("-F 16 -s 1", 4 * MIB, "FAT16, 512-byte clusters"),
    ("-F 32 -s 1", 36 * MIB, "FAT32, 512-byte clusters"),
    ("-F 32 -s 2", 70 * MIB, "FAT32, 1024-byte clusters"),
]


@pytest.mark.parametrize(("options", "size", "kind"), KINDS)
def test_a_sound_volume(options: str, size: int, kind: str, tmp_path: Path) -> None:
    image = EspImage.make(tmp_path / "esp", FILES, options, size)
    volume = image.volume()

    assert volume.layout.name == kind
    assert {f.path: f.size for f in volume.files if not f.is_folder} == {
        name: len(data) for name, data in FILES.items()
    }
    for name, data in FILES.items():
        file = image.file(name.upper())
        assert file.chain.end is ChainEnd.END
        assert file.chain.length == -(-len(data) // volume.layout.cluster_size)
        assert read_file(image.reader(), volume.layout, file) == data
        assert read_file(image.reader(), volume.layout, file, 511, 3) == data[511:514]
    assert (volume.shared, volume.lost_clusters, volume.bad_clusters) == ((), 0, 0)
    assert volume.was_shut_down and volume.had_no_errors  # noqa: PT018
    assert (volume.copies_differ_at, volume.backup_differs) == (None, False)
    used = sum(file.chain.length for file in volume.files) + (volume.layout.bits == 32)
    assert volume.free_clusters == volume.layout.cluster_count - used
    if volume.layout.bits == 32:
        assert volume.hint is not None
        assert volume.hint.free_clusters == volume.free_clusters
    assert "clusters" in image.fsck()


@pytest.mark.parametrize(("options", "size", "kind"), KINDS)
def test_slots_are_where_the_records_stand(
    options: str, size: int, kind: str, tmp_path: Path
) -> None:
    """By the bytes at the places: the short name in the last slot, pieces of the long one before."""
    image = EspImage.make(tmp_path / "esp", FILES, options, size)
    read, volume = image.reader(), image.volume()
    folder = volume.folders[LINUX]
    counts = {}
    for record in folder.slots.records:
        counts[record.name] = record.slot_count
        for slot in record.slots:
            raw = read(folder.offset_of(slot, volume.layout), RECORD_BYTES)
            assert (raw[11] == 0x0F) == (slot != record.slots[-1])
        assert int.from_bytes(raw[28:32], "little") == record.size
    assert list(counts.values()) == [1, 2, 2, 5]
    assert folder.slots.taken[:12] == b"\1" * 12  # `.` and `..` stand first
    assert not any(folder.slots.taken[12:])
    assert len(folder.slots.taken) * RECORD_BYTES == max(volume.layout.cluster_size, 512)
    root = volume.folders[""]
    assert volume.layout.root_size in (0, len(root.slots.taken) * RECORD_BYTES)
    with pytest.raises(IndexError):
        folder.offset_of(10_000, volume.layout)


def test_removed_names_leave_free_slots(tmp_path: Path) -> None:
    image = EspImage.make(tmp_path / "esp", FILES)
    record = image.file(f"{LINUX}/0042b+3-0.efi").record
    for slot in record.slots:
        image.patch(image.volume().folders[LINUX].offset_of(slot, image.volume().layout), b"\xe5")
    folder = image.volume().folders[LINUX]

    assert [folder.slots.taken[slot] for slot in record.slots] == [0, 0]
    assert record.name not in [one.name for one in folder.slots.records]
    assert image.volume().lost_clusters == 14


def test_the_short_record_alone_and_a_long_name_without_one(tmp_path: Path) -> None:
    """What a rename over two sectors leaves: the entry under its short name; pieces of no file."""
    image = EspImage.make(tmp_path / "esp", FILES)
    file = image.file(f"{LINUX}/0042b+3-0.efi")
    at = image.volume().folders[LINUX].offset_of(file.record.slot, image.volume().layout)
    long, short = image.reader()(at, 64)[:32], image.reader()(at, 64)[32:]
    image.patch(at, b"\xe5")
    names = [one.name for one in image.volume().folders[LINUX].slots.records]
    assert "0042B+~1.EFI" in names or "0042B_~1.EFI" in names

    image.patch(at, long + b"\xe5" + short[1:])
    slots = image.volume().folders[LINUX].slots
    assert slots.strays == (file.record.slot,)
    assert slots.taken[file.record.slot]


def test_names_behind_the_end_mark_are_told_apart(tmp_path: Path) -> None:
    image = EspImage.make(tmp_path / "esp", FILES)
    file = image.file(f"{LINUX}/0042b+3-0.efi")
    at = image.volume().folders[LINUX].offset_of(file.record.slot, image.volume().layout)
    image.patch(at, bytes(64))
    behind = [one.name for one in image.volume().folders[LINUX].slots.records if one.is_behind_end]

    assert behind == [".0042b.tmp", "a name of more than twenty-six characters.efi"]


def test_cross_links_are_groups(tmp_path: Path) -> None:
    image = EspImage.make(
        tmp_path / "esp", {**FILES, f"{LINUX}/0042b.efi": b"x", f"{LINUX}/tail": b"y" * 1024}
    )
    image.cross_link(f"{LINUX}/.0042b.tmp", f"{LINUX}/0042b+3-0.efi")
    image.cross_link(f"{LINUX}/0042b.efi", f"{LINUX}/.0042b.tmp")
    a = image.file(f"{LINUX}/0041a.efi").chain.runs[0]
    image.set_next(image.file(f"{LINUX}/tail").record.cluster, a.first + 7)
    volume = image.volume()

    assert [(sorted(one.paths), one.clusters) for one in volume.shared] == [
        ([f"{LINUX}/0041a.efi", f"{LINUX}/tail"], 3),
        ([f"{LINUX}/.0042b.tmp", f"{LINUX}/0042b+3-0.efi", f"{LINUX}/0042b.efi"], 14),
    ]
    assert volume.partners(f"{LINUX}/0042B.EFI") == (
        f"{LINUX}/0042b+3-0.efi",
        f"{LINUX}/.0042b.tmp",
    )
    assert volume.partners("loader/loader.conf") == ()
    said = image.fsck()
    assert said.count("share clusters") >= 2


@pytest.mark.parametrize("options", ["-F 16 -s 1", "-F 32 -s 1"])
@pytest.mark.parametrize(
    ("value", "end", "words"),
    [
        (0, ChainEnd.FREE, "free cluster"),
        (0x0FFF_FFF7, ChainEnd.BAD, ""),  # fsck.vfat itself gives up here, with an internal error
        ("itself", ChainEnd.LOOP, ""),
        ("beyond", ChainEnd.OUTSIDE, "out of range"),
    ],
)
def test_broken_chains(
    options: str, value: int | str, end: ChainEnd, words: str, tmp_path: Path
) -> None:
    image = EspImage.make(tmp_path / "esp", FILES, options, (4 if "16" in options else 36) * MIB)
    first = image.file(f"{LINUX}/0042b+3-0.efi").record.cluster
    number = value
    if isinstance(value, str):
        number = first + 1 if value == "itself" else image.volume().layout.cluster_end
    assert isinstance(number, int)
    image.set_next(first + 5, number)
    chain = image.file(f"{LINUX}/0042b+3-0.efi").chain

    assert chain.end is end
    assert chain.length == (5 if end in (ChainEnd.FREE, ChainEnd.BAD) else 6)
    if words:
        assert words in image.fsck().lower()


def test_copies_of_the_table_and_of_the_boot_sector(tmp_path: Path) -> None:
    image = EspImage.make(tmp_path / "esp", FILES)
    image.set_next(77_000, END, copies=(1,))
    image.patch(6 * 512 + 3, b"other")
    volume = image.volume()

    assert volume.copies_differ_at == 77_000
    assert volume.backup_differs
    said = image.fsck()
    assert "FATs differ" in said
    assert "differences between boot sector and its backup" in said


def test_marks(tmp_path: Path) -> None:
    image = EspImage.make(tmp_path / "esp", FILES)
    image.patch(65, b"\1")
    assert image.volume().layout.is_dirty
    assert not image.volume().backup_differs
    assert "Dirty bit is set" in image.fsck()
    image.set_next(1, 0x07FF_FFFF)
    assert (image.volume().was_shut_down, image.volume().had_no_errors) == (False, True)
    image.set_next(1, 0x0BFF_FFFF)
    assert (image.volume().was_shut_down, image.volume().had_no_errors) == (True, False)
    image.patch(512, b"XXXX")
    assert image.volume().hint is None


def test_a_folder_below_itself_is_entered_once(tmp_path: Path) -> None:
    image = EspImage.make(tmp_path / "esp", FILES)
    image.set_start(LINUX, image.file("EFI").record.cluster)
    volume = image.volume()

    assert [one.paths for one in volume.shared] == [("EFI", LINUX)]
    assert sorted(volume.folders) == ["", "EFI", "loader"]


def test_the_work_on_shared_clusters_is_bounded(tmp_path: Path) -> None:
    """64 names of one chain that takes a tenth of the volume."""
    files = {f"{n:02}": b"" for n in range(64)}
    image = EspImage.make(
        tmp_path / "esp", files | {"large": b"x" * 60_000}, "-F 12 -s 1", MIB // 2
    )
    cluster = image.file("large").record.cluster.to_bytes(2, "little")
    for at in [image.record_offset("00") + 32 * n for n in range(64)]:
        image.patch(at + 26, cluster)
    with pytest.raises(FormatError, match="too many files share clusters"):
        image.volume()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fat") / "esp"
    return EspImage.make(path, FILES, "-F 12 -s 1 -f 2 -r 112", MIB // 4).path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_raise_only_our_errors(small: bytes, data: st.DataObject) -> None:
    """Random bytes in the boot sector, the tables, the folders."""
    image = bytearray(small)
    random_ = random.Random(data.draw(st.integers(0, 1 << 32)))
    for _ in range(data.draw(st.integers(1, 40))):
        image[random_.randrange(random_.choice((64, 8192, 24_576)))] = random_.randrange(256)
    raw = bytes(image)

    def read(offset: int, size: int) -> bytes:
        if offset + size > len(raw):
            raise FormatError("beyond")
        return raw[offset : offset + size]

    try:
        volume = read_fat_volume(read, len(raw))
        for file in volume.files:
            assert len(read_file(read, volume.layout, file)) <= file.size
            volume.partners(file.path)
    except FormatError:
        pass
