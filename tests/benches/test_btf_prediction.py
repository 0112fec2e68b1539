"""Types of a module are predicted where those of its kernel moved."""

import struct

from benches.btf_prediction import Base, Btf, TypesPredictor, base_of

TYPEDEF, STRUCT = 8 << 24, 4 << 24
NAMES = [b"", *(b"name%d" % number for number in range(40))]


def module(base: Base, inserted: int, *, wrong: int = 0) -> Btf:
    """Typedefs of 40 types of the kernel, then a structure of them.

    The kernel's types from 500 on stand `inserted` numbers later.
    """

    def kernel(number: int) -> int:
        return number + inserted if number >= 500 else number

    strings = b"\0".join(NAMES) + b"\0"
    words: list[int] = []
    for number, name in enumerate(NAMES[1:]):
        place = base.name + strings.index(b"\0" + name + b"\0") + 1
        words += [place, TYPEDEF, kernel(480 + number) + wrong * (number == 30)]
    words += [base.name + 1, STRUCT | 40, 8]
    for number in range(40):
        words += [kernel(490 + number), base.type + number + 1, 64 * number]
    header = struct.pack(
        "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 4 * len(words), 4 * len(words), len(strings)
    )
    return Btf(header + struct.pack(f"<{len(words)}I", *words) + strings, 0)


SOURCE, TARGET = Base(1000, 5000), Base(1007, 5100)


def test_bases_follow_from_what_a_module_defines_last() -> None:
    assert base_of([module(TARGET, 7)]) == TARGET


def test_what_moved_is_told_once() -> None:
    predictor = TypesPredictor(SOURCE, TARGET)
    predictor.predict(module(SOURCE, 0), module(TARGET, 7))
    names, types, others = predictor.residual.differences

    # The first number of each column past what was inserted is a surprise, and nothing else is.
    assert [one for one in types if one] == [7]
    assert [one for one in names if one] == [7]
    assert not any(others)
    assert not any(predictor.residual.literal)

    predictor.predict(module(SOURCE, 0), module(TARGET, 7))
    assert sum(map(bool, names + types)) == 2


def test_a_wrong_guess_is_left_as_its_difference() -> None:
    predictor = TypesPredictor(SOURCE, TARGET)
    predictor.predict(module(SOURCE, 0), module(TARGET, 7))
    predictor.predict(module(SOURCE, 0), module(TARGET, 7, wrong=2))

    assert [one for one in predictor.residual.differences[1] if one] == [7, 2]
