"""The whole story on small images: it ends well, and its table says what happened."""

from pathlib import Path

from slipstream.demo.images import spoil
from slipstream.demo.releases import DemoRelease, DemoReleases
from slipstream.demo.story import tell
from tests.demo.trees import EXT4_BYTES, make_pair
from tests.server.boot_parts import any_kernel


def test_story_is_told_on_ext4_and_on_squashfs(tmp_path: Path) -> None:
    kernel = any_kernel()
    first, first_packed = make_pair(tmp_path, 1)
    second, second_packed = make_pair(tmp_path, 2, edits=50)
    broken = tmp_path / "3.ext4"
    spoil(second, broken, 3)
    releases = DemoReleases(
        DemoRelease(1, first, kernel),
        DemoRelease(2, second, kernel),
        DemoRelease(3, broken, kernel),
        (DemoRelease(1, first_packed, kernel), DemoRelease(2, second_packed, kernel)),
        kind=", ext4",
    )
    said: list[str] = []

    rows = tell(tmp_path / "work", releases, said.append)

    # Images this small may be written before the kill arrives; the row then does not claim it.
    assert [(row.what.removesuffix(", killed once"), row.booted) for row in rows] == [
        ("install 1, ext4, full", "1"),
        ("update 1 -> 2, ext4, delta", "2"),
        ("broken update 2 -> 3, ext4, delta", "3, then 2"),
        ("install 1, squashfs, full", "1"),
        ("update 1 -> 2, squashfs, delta", "2"),
    ]
    full, update, _, packed_full, packed_update = rows
    assert [row.image_bytes for row in (full, packed_full)] == [
        EXT4_BYTES,
        first_packed.stat().st_size,
    ]
    assert update.payload_bytes < full.payload_bytes / 10
    assert packed_update.payload_bytes < packed_full.payload_bytes / 10
    text = "\n".join(said)
    assert "gateway 3: cannot read /etc/gateway/upstream.conf" in text
    (table,) = [one for one in said if "peak memory" in one]
    assert all(row.what in table for row in rows)
    # The rollout: its second phase opened, one device failed by class, and its page is the last word.
    assert "  unit-3 polls, and hears: 2 is rolled out in phases; this device's turn" in text
    assert "2 is quarantined on this device: three tries ran out" in text
    assert "release-2 (1): finished" in text
    assert "failed: 1 (boot)" in text
    assert said[-1] == "http://127.0.0.1:8480/rollouts/1"
