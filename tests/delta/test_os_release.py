"""What a boot menu sorts by: read as systemd-boot reads it, ordered as the device orders it."""

from pathlib import Path

import pytest

from slipstream.delta.os_release import MenuKey, compare_menu_keys, parse_menu_key
from slipstream.delta.pe import dump_pe
from slipstream.installer.boot.chooser import compare_entries, read_entry


@pytest.mark.parametrize(
    "text, key",
    [
        ("IMAGE_ID=a\nIMAGE_VERSION=2\nID=b\nVERSION_ID=3\n", MenuKey("a", "2")),
        ('ID="b"\nVERSION="3 (x)"\n', MenuKey("b", "3 (x)")),
        ("NAME=x\n", MenuKey(None, "")),
        ("# ID=a\nVERSION_ID=1\n", None),
        ("", None),
    ],
)
def test_keys(text: str, key: MenuKey | None) -> None:
    assert parse_menu_key(text.encode()) == key


KEYS = [
    MenuKey("a", "2"), MenuKey("a", "10"), MenuKey("a", "10~rc1"), MenuKey("b", "99"), MenuKey("a", ""),
    MenuKey(None, "5"), MenuKey(None, "6"),
]  # fmt: skip


def test_the_order_is_that_of_the_menu(tmp_path: Path) -> None:
    def entry(key: MenuKey):
        text = f"NAME=x\nIMAGE_VERSION={key.version}\n" + (
            f"ID={key.sort_key}\n" if key.sort_key else ""
        )
        (tmp_path / "x.efi").write_bytes(dump_pe({".osrel": text.encode(), ".linux": b"k"}))
        return read_entry(tmp_path, tmp_path / "x.efi", "x.efi")

    for a in KEYS:
        for b in KEYS:
            assert compare_menu_keys(a, b) == compare_entries(entry(a), entry(b)), (a, b)
