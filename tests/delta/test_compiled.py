"""compiled.py: functions become machine code, with or without a place to keep it."""

from slipstream.delta.compiled import compiled


def test_what_cannot_be_kept_is_compiled_all_the_same() -> None:
    names: dict[str, object] = {}
    exec("def twice(number): return 2 * number", names)  # no file, so no place beside it
    twice = names["twice"]
    assert callable(twice)
    made = compiled("i8(i8)")(twice)
    assert made(21) == 42
    assert made is not twice
