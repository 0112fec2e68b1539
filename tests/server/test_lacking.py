"""lacking.py: who stays packed is named, the largest first, with what would do at the least."""

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import MIB
from slipstream.delta.unfold import OpenBlock
from slipstream.server.lacking import lacking_memory

BASE = 7000


def _block(size: int, lacking: int, name: str = "", packing: Packing = Packing.XZ) -> OpenBlock:
    content = ByteRange(10**6, size)
    return OpenBlock(
        (ByteRange(BASE + size, 10),), content, packing, name=name, lacking_bytes=lacking
    )


def _lines(*blocks: OpenBlock) -> list[str]:
    return list(lacking_memory(blocks, BASE, 96 * MIB))


def test_what_lacks_nothing_is_not_named() -> None:
    assert _lines(_block(100, 0, "file#1")) == []


def test_files_by_path_and_others_by_place() -> None:
    assert _lines(
        _block(100, 1, "boot/vm\x1blinuz#3"), _block(200, 40 * MIB, "#1"), _block(300, MIB)
    ) == [
        "what is packed at byte 300 (xz) stays packed: packing it again takes --memory 97MiB at least",
        "what is packed at byte 200 (xz) stays packed: packing it again takes --memory 136MiB at least",
        "boot/vm\ufffdlinuz (xz) stays packed: packing it again takes --memory 97MiB at least",
    ]


def test_many_are_counted() -> None:
    lines = _lines(*(_block(n + 1, n * MIB + 1, f"file-{n}#1") for n in range(8)))
    assert len(lines) == 6
    assert lines[0].startswith("file-7 (xz)")
    assert lines[-1] == (
        "3 more, smaller, stay packed: packing them again takes --memory 99MiB at least"
    )
