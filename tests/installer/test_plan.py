"""The plan: which payload, and every reason not to install. Pure values in, a value out."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slipstream.delta.digest import Digest
from slipstream.delta.entries import DeltaEntry
from slipstream.delta.errors import DeviceFault, NothingToDo, Rejected, RolledBack, WrongDevice
from slipstream.delta.layout import delta_path, full_path
from slipstream.delta.limits import GIB, MIB
from slipstream.delta.manifest import Place
from slipstream.installer.plan import DeviceFacts, Plan, choose_target, plan_install
from slipstream.installer.prepare import prepare
from slipstream.installer.slots import Denied
from tests.installer.lab import START, Lab, LabRelease, change, make_image

SOURCE = Digest.of(b"source")
OTHER = Digest.of(b"other")
IMAGE = make_image(1)


@pytest.fixture
def release(tmp_path: Path) -> LabRelease:
    return Lab(tmp_path).publish("2.0", 5, IMAGE, hardware=("x86-64", "arm64"))


@pytest.fixture
def facts() -> DeviceFacts:
    return DeviceFacts(
        product="gateway",
        hardware="x86-64",
        channel="stable",
        floor=3,
        active="a",
        target="b",
        counter=4,
        root=SOURCE,
        sources={"rootfs": (SOURCE, OTHER)},
        sizes={"rootfs": 4 * MIB},
        denied=(),
        memory_bytes=96 * MIB,
        libraries=frozenset({"gzip 1.12", "zlib 1.2.13"}),
    )


def delta_of(release: LabRelease, source: Digest = SOURCE, **changes: object) -> DeltaEntry:
    root = release.images["rootfs"].tree.tuple.root
    return replace(DeltaEntry("rootfs", source, root, 1000, MIB), **changes)  # type: ignore[arg-type]


def plan_of(release: LabRelease, facts: DeviceFacts, *deltas: DeltaEntry) -> Plan:
    offered = {delta_path("2.0", "rootfs", one.source_root): one for one in deltas}
    return plan_install(release.manifest, release.raw, facts, offered)


def test_the_delta_from_what_the_slot_holds_is_taken(
    release: LabRelease, facts: DeviceFacts
) -> None:
    plan = plan_of(release, facts, delta_of(release))

    rootfs, kernel = plan.images
    assert rootfs.payload.path == delta_path("2.0", "rootfs", SOURCE)
    assert rootfs.full.path == full_path("2.0", "rootfs")
    assert kernel.payload == kernel.full
    assert plan.fetch_bytes == 1000 + kernel.full.payload_bytes


def test_a_release_may_bring_its_hash_tree_itself(release: LabRelease, facts: DeviceFacts) -> None:
    rootfs, kernel = release.manifest.images
    uki = replace(kernel, place=Place.UKI)
    tree = replace(rootfs, name="rootfs-verity")
    boot = replace(release.manifest.boot, options="")
    alone = replace(release.manifest, images=(rootfs, uki), boot=boot)
    facts = replace(facts, sizes={"rootfs": 4 * MIB, "rootfs-verity": 4 * MIB})

    with pytest.raises(WrongDevice, match="opens rootfs"):
        plan_install(alone, release.raw, facts, {})
    whole = replace(alone, images=(rootfs, tree, uki))
    assert plan_install(whole, release.raw, facts, {}).bare == {"rootfs-verity"}


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_bytes": 90 * MIB},
        {"payload_bytes": GIB},
        {"libraries": "gzip 1.13"},
        {"target_root": OTHER},
        {"source_root": Digest.of(b"foreign")},
    ],
)
def test_a_delta_that_does_not_fit_is_passed_over(
    release: LabRelease, facts: DeviceFacts, changes: dict[str, object]
) -> None:
    plan = plan_of(release, facts, delta_of(release, **changes))

    assert plan.images[0].payload == plan.images[0].full


@pytest.mark.parametrize(
    "changes, why",
    [
        (
            {"libraries": "gzip 1.12, liblzma 5.4.1, zlib 1.3"},
            "it needs liblzma 5.4.1, zlib 1.3, which this device does not have",
        ),
        (
            {"memory_bytes": 90 * MIB},
            "it needs 146.0 MiB of memory; [install] memory allows 96.0 MiB",
        ),
        ({"libraries": "gzip 1.12, zlib 1.2.13"}, None),
        ({"libraries": "gzip 1.13", "payload_bytes": GIB}, None),
    ],
)
def test_a_plan_says_why_a_smaller_delta_is_not_used(
    release: LabRelease, facts: DeviceFacts, changes: dict[str, object], why: str | None
) -> None:
    plan = plan_of(release, facts, delta_of(release, **changes))

    words = [] if why is None else [f"delta from {SOURCE.hex[:16]}: {why}"]
    assert list(plan.images[0].passed_over) == words
    assert list(plan.passed_over) == [f"not used: rootfs: {one}" for one in words]
    assert plan.to_json()["images"][0]["passed_over"] == words
    assert all(f"not used: {one}" in plan.to_words() for one in words)
    assert ("not used" in plan.to_words()) == bool(words)


def test_another_delta_takes_the_place_of_one_that_cannot_be_used(
    release: LabRelease, facts: DeviceFacts
) -> None:
    better = delta_of(release, libraries="gzip 1.13")
    plan = plan_of(release, facts, better, delta_of(release, OTHER, payload_bytes=1001))
    assert plan.images[0].payload.source == OTHER
    assert "gzip 1.13" in plan.passed_over[0]

    plan = plan_of(release, facts, better, delta_of(release, OTHER, payload_bytes=999))
    assert plan.passed_over == ()


def test_two_roots_with_the_same_16_digits_are_told_apart(
    release: LabRelease, facts: DeviceFacts
) -> None:
    twin = Digest(SOURCE.raw[:8] + bytes(24))

    assert delta_path("2.0", "rootfs", twin) == delta_path("2.0", "rootfs", SOURCE)
    plan = plan_of(release, facts, delta_of(release, twin))
    assert plan.images[0].payload == plan.images[0].full


def test_a_release_that_cannot_boot_is_refused_before_anything_is_retired(
    release: LabRelease, facts: DeviceFacts
) -> None:
    images = tuple(one for one in release.manifest.images if one.place is Place.PARTITION)
    boot = replace(release.manifest.boot, options="")
    manifest = replace(release.manifest, images=images, boot=boot)

    with pytest.raises(Rejected, match="nothing that boots"):
        plan_install(manifest, release.raw, facts, {})


def test_the_smallest_delta_wins(release: LabRelease, facts: DeviceFacts) -> None:
    plan = plan_of(release, facts, delta_of(release), delta_of(release, OTHER, payload_bytes=999))

    assert plan.images[0].payload.source == OTHER


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"product": "toaster"}, WrongDevice, "another product"),
        ({"hardware": "riscv"}, WrongDevice, "other hardware"),
        ({"channel": "beta"}, WrongDevice, "another channel"),
        ({"floor": 6}, RolledBack, "older than this device accepts"),
        ({"sizes": {"rootfs": len(IMAGE) - 1}}, WrongDevice, "larger than the partition"),
        ({"sizes": {"usr": 4 * MIB}}, WrongDevice, "no partition for the image"),
        ({"counter": 5, "root": None}, NothingToDo, "runs already"),
        ({"counter": 5}, Rejected, "the same counter"),
        ({"counter": 6}, RolledBack, "older than the running one"),
    ],
)
def test_reasons_not_to(
    release: LabRelease,
    facts: DeviceFacts,
    changes: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        plan_of(release, replace(facts, **changes))  # type: ignore[arg-type]


def test_the_floor_itself_and_an_exact_fit_are_accepted(
    release: LabRelease, facts: DeviceFacts
) -> None:
    plan_of(release, replace(facts, floor=5, sizes={"rootfs": len(IMAGE)}))


@pytest.mark.parametrize("same", ["manifest", "counter"])
def test_a_denied_release_is_rejected_with_its_reason(
    release: LabRelease, facts: DeviceFacts, same: str
) -> None:
    digest = release.digest if same == "manifest" else OTHER
    denied = Denied("2.0", 5 if same == "counter" else 1, digest, "health: dns failed", 0)

    with pytest.raises(Rejected, match="health: dns failed"):
        plan_of(release, replace(facts, denied=(denied,)))


@pytest.mark.parametrize(
    "active, entries, target", [("a", 1, "b"), ("b", 2, "a"), ("c", 2, "a"), (None, 0, "a")]
)
def test_the_target_is_never_the_active_slot(active: str | None, entries: int, target: str) -> None:
    assert choose_target(("c", "b", "a"), active, entries=entries) == target


@pytest.mark.parametrize("active, entries", [(None, 1), ("x", 0)])
def test_without_knowing_what_runs_nothing_is_chosen(active: str | None, entries: int) -> None:
    with pytest.raises(DeviceFault, match="not known"):
        choose_target(("a", "b"), active, entries=entries)


def test_words_and_json_say_the_same(release: LabRelease, facts: DeviceFacts) -> None:
    plan = plan_of(release, replace(facts, releases={SOURCE: "1.1"}), delta_of(release))
    words, document = plan.to_words(), plan.to_json()

    assert "delta from release 1.1, 1,000 bytes" in words
    assert document["images"][0]["payload"] == "delta"
    assert document["images"][0]["source_root"] == SOURCE.hex
    assert document["images"][0]["source_release"] == "1.1"
    nameless = plan_of(release, facts, delta_of(release))
    assert f"delta from {SOURCE.hex[:16]}, 1,000 bytes" in nameless.to_words()
    assert document["images"][1]["payload"] == "full"
    assert document["fetch_bytes_max"] == plan.fetch_bytes
    for step in document["steps"]:
        assert step in words


async def _plan_twice(lab: Lab) -> tuple[Plan, Plan]:
    return await prepare(lab.device()), await prepare(lab.device(), "2.0")


def test_preparing_touches_neither_slot_nor_boot_entries(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.preinstall(lab.publish("1.0", 1, IMAGE))
    lab.publish("2.0", 2, change(IMAGE, 9), source=IMAGE)
    before = [lab.slot(name).read_bytes() for name in "ab"]

    newest, named = asyncio.run(_plan_twice(lab))

    assert newest.to_json() == named.to_json()
    assert newest.images[0].payload.source == lab.root_of(IMAGE)
    assert newest.images[0].payload.release == "1.0"  # no record of it: signed metadata says so
    assert [lab.slot(name).read_bytes() for name in "ab"] == before
    assert lab.fake.calls == []
    assert not (tmp_path / "state" / "tx.json").exists()
    assert lab.fetcher.bytes_sent == 0


def test_the_manifests_time_holds_up_a_clock_that_stands_in_1970(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.publish("1.0", 1, IMAGE)
    asyncio.run(prepare(lab.device()))

    lab.clock.time = datetime.fromtimestamp(0, UTC)

    assert lab.device().now() == START


def test_a_release_that_nobody_signed_is_rejected(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.publish("1.0", 1, IMAGE)

    with pytest.raises(Rejected, match="no signed metadata names this release"):
        asyncio.run(prepare(lab.device(), "6.6"))


def test_an_older_release_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.preinstall(lab.publish("2.0", 2, IMAGE))
    lab.fake.preset("a", 3)

    with pytest.raises(NothingToDo, match="nothing newer"):
        asyncio.run(prepare(lab.device()))
    with pytest.raises(RolledBack, match="older than"):
        asyncio.run(prepare(lab.device(), "2.0"))


def test_another_product_or_channel_is_not_on_offer(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.publish("1.0", 1, IMAGE, channel="beta")
    lab.publish("2.0", 2, IMAGE, product="toaster")

    with pytest.raises(NothingToDo, match="no release is on offer"):
        asyncio.run(prepare(lab.device()))
