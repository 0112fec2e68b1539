"""The closing table: columns that line up, figures with units, boots in order."""

from slipstream.demo.table import Row, table_of


def test_table_lines_up() -> None:
    update = Row("update 1 -> 2, delta", 503_316_480, 3_700_000, 6_200_000, 9_900_000, 0, 6.64, 66_560)  # fmt: skip
    update.add_boot("3")
    update.add_boot("2")
    install = Row("install", 503_316_480, 120_900_000, 8_200_000, 129_100_000, 512, 12.0, 58_368)
    install.add_boot("1")

    head, *lines = table_of([install, update]).split("\n")

    assert {len(line) for line in (head, *lines)} == {len(head)}
    assert head.split("  ")[-1].strip() == "booted"
    assert lines[0].split() == [
        *("install", "503.3", "MB", "120.9", "MB", "8.2", "MB", "129.1", "MB", "512", "B"),
        *("12.0", "57", "MiB", "1"),
    ]
    assert lines[1].endswith("6.6       65 MiB  3, then 2")
