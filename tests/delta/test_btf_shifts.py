"""What is learned of BTF: the target's numbers, from modules made by hand, and nothing of others."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.btf import BtfShifts, MovedBtf, move_btf
from slipstream.delta.btf_shifts import Base, ShiftsLearner, base_of, find_btf, parse_btf
from tests.delta.btf_modules import btf, elf, kernels, structs

OLD, NEW = kernels()


def learn(pairs: list[tuple[bytes, bytes]]) -> tuple[BtfShifts, list[BtfShifts]]:
    parsed = [(parse_btf(source), parse_btf(target)) for source, target in pairs]
    held = [(source, target) for source, target in parsed if source and target]
    learner = ShiftsLearner(base_of(one for one, _ in held), base_of(one for _, one in held))
    own = [learner.add(*pair) for pair in held]
    return learner.shared(), own


def moved(section: bytes, shared: BtfShifts, own: BtfShifts) -> bytes:
    parsed = parse_btf(section)
    assert parsed is not None
    return move_btf(section, MovedBtf(0, parsed.types, own), shared)


def test_bases_are_where_the_kernel_ends() -> None:
    parsed = [
        parse_btf(btf(OLD, [*structs(seed), ("last", ["kernel_type_1"])])) for seed in range(3)
    ]
    base = base_of(one for one in parsed if one)
    # No type names the last one, a function: so it is found by one less.
    assert base.type in {OLD.types_base - 1, OLD.types_base}
    assert base.name == OLD.names_base


def test_moved_modules_are_the_target() -> None:
    pairs = [(btf(OLD, structs(seed)), btf(NEW, structs(seed))) for seed in range(60)]
    shared, own = learn(pairs)
    assert [moved(old, shared, mine) for (old, _), mine in zip(pairs, own, strict=True)] == [
        new for _, new in pairs
    ]
    assert not any(one.count for one in own)
    assert shared.count <= 12  # 4 insertions and the base, of types and of names


def test_a_modules_own_insertions() -> None:
    plain = [(btf(OLD, structs(seed)), btf(NEW, structs(seed))) for seed in range(60)]
    later = structs(99)
    inserted = [*later[:20], ("inserted_here", ["kernel_type_5"]), *later[20:]]
    old, new = btf(OLD, later), btf(NEW, inserted)
    shared, own = learn([*plain, (old, new)])
    assert own[-1].types.firsts
    assert own[-1].names.firsts
    source, target = (types_of(one) for one in (moved(old, shared, own[-1]), new))
    cut, size = (len(types_of(btf(OLD, one))) for one in (later[:20], inserted[20:21]))
    assert (source[:cut], source[cut:]) == (target[:cut], target[cut + size :])


def types_of(section: bytes) -> bytes:
    parsed = parse_btf(section)
    assert parsed is not None
    return section[parsed.types.offset : parsed.types.end]


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:63],
        lambda raw: b"MZ" + raw[2:],
        lambda raw: raw[:-1],
        lambda raw: raw.replace(b".BTF\0", b".BTG\0"),
    ],
    ids=["short", "other magic", "cut table", "no section"],
)
def test_other_files_have_no_btf(change: object) -> None:
    raw = elf(btf(OLD, structs(1)))
    place = find_btf(raw)
    assert place is not None
    assert raw[place.offset : place.end] == btf(OLD, structs(1))
    assert find_btf(change(raw)) is None  # type: ignore[operator]


@pytest.mark.parametrize("other", [{"kind": 2}, {"data": 2}], ids=["executable", "big-endian"])
def test_only_little_endian_modules(other: dict[str, int]) -> None:
    assert find_btf(elf(btf(OLD, structs(1)), **other)) is None


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_hurt_files_never_fail(seed: int, count: int) -> None:
    chance = random.Random(seed)
    pair = []
    for kernel in (OLD, NEW):
        raw = bytearray(elf(btf(kernel, structs(3, 10))))
        for _ in range(count):
            raw[chance.randrange(len(raw))] = chance.choice(
                [0, 1, 0x7F, 0xFF, chance.randrange(256)]
            )
        place = find_btf(bytes(raw))
        pair.append(parse_btf(bytes(raw[place.offset : place.end])) if place else None)
    if pair[0] and pair[1]:
        learner = ShiftsLearner(base_of([pair[0]]), base_of([pair[1]]))
        learner.add(pair[0], pair[1])
        learner.shared()


def test_nothing_is_learned_of_nothing() -> None:
    learner = ShiftsLearner(Base(5, 6), Base(7, 9))
    assert learner.shared().types.moved(5) == 7
    assert learner.shared().names.moved(5) == 5
    empty = parse_btf(btf(OLD, []))
    assert empty is not None
    assert learner.add(empty, empty).count == 0
