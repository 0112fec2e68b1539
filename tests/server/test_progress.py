"""progress.py: results pass as they come, each with what is done by then."""

from slipstream.server.progress import told


def test_told() -> None:
    words: list[tuple[str, int, int]] = []
    results = told(iter("abc"), [5, 0, 7], "read", 12, lambda *one: words.append(one))
    assert next(results) == "a"
    assert words == [("read", 5, 12)]
    assert list(results) == ["b", "c"]
    assert words == [("read", 5, 12), ("read", 5, 12), ("read", 12, 12)]
