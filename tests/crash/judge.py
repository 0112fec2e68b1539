"""What a device does that finds its media as a power cut left them, and whether that is right.

    outcome = judge(story, state, folder)          raises Failure

In every state: the firmware starts a release, and it is whole: its UKI byte for byte, its slot by the
root hash. No file of the state folder is torn, and no checkpoint says more than the slot holds. Then
the installer is started on the state and must bring the story to its end, without fetching again
what was durable.
"""

import hashlib
import json
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.digest import Digest
from slipstream.delta.errors import SlipstreamError
from slipstream.installer.ports import EntryState
from slipstream.installer.states import Idle, transaction_id
from slipstream.installer.states import Outcome as Ended
from tests.crash.machine import DOWN, Machine, Snapshot, Stuck, start_of
from tests.crash.media import Tree
from tests.crash.repository import FRAME_BYTES, Dead
from tests.crash.story import NEW, OLD, Story
from tests.crash.volume import Sectors, read_volume
from tests.installer.lab import PIECE_BYTES

# A frame that was begun may come twice: what is left of it after a cut can be wrong, which shows only
# when it is whole. And the piece that was on its way.
REFETCH_SLACK_BYTES = FRAME_BYTES + PIECE_BYTES


class Failure(Exception):
    """A state from which the device does not come back as it should."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`boots`: what the first boot starts. `then`: how the story came to its end."""

    boots: str
    then: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A state of all media, what was durable of the download when the power went, and whether the
    firmware was just renaming.
    """

    media: Snapshot
    fetched_durably: int = 0
    bumping: bool = False


def judge(
    story: Story, cut: Cut, folder: Path, finished: dict[tuple[str, bytes], bool] | None = None
) -> Outcome:
    """Boot it, check it, run it to its end. Raises Failure.

    `finished` remembers from which states at a reboot the story's end was reached, and whether a
    lost entry had been put back: from there it is not run again.
    """
    finished = {} if finished is None else finished
    passed: list[tuple[str, bytes]] = []

    def is_known(machine: Machine) -> bool:
        passed.append((story.name, _rest_of(machine)))
        return passed[-1] in finished

    media = cut.media
    try:
        start = story.repository.check_start(start_of(media.esp), media.slots.__getitem__)
    except Dead as error:
        raise Failure(str(error)) from error
    counter = story.repository.counter_of(start.uki)
    if counter not in (OLD, NEW):
        raise Failure(f"boots release {counter}, which is neither the old one nor the new one")
    boots = "the old release"
    if counter == NEW:
        boots = "the new release, " + ("confirmed" if start.tries_left is None else "on trial")
    check_recorded(story, cut, counter)
    check_state(media.state)
    check_trusted(media.state)
    check_checkpoints(story, media)
    machine = Machine(folder, story.repository, media, sick=story.sick, hung=story.hung,
                      sources=False, is_known=is_known)  # fmt: skip
    try:
        machine.drive()
        machine.check_esp()
    except (Dead, Stuck) as error:
        raise Failure(f"{boots} boots, then: {error}; boots {machine.booted}") from error
    except SlipstreamError as error:
        raise Failure(f"{boots} boots, then: {error}") from error
    known = bool(passed) and passed[-1] in finished
    restaged = finished[passed[-1]] if known else check_end(story, machine)
    finished |= dict.fromkeys(passed, restaged)
    fetched = machine.fetcher.bytes_sent
    allowed = story.fetched_bytes - cut.fetched_durably + REFETCH_SLACK_BYTES
    if counter == OLD and fetched > allowed:
        raise Failure(f"fetched {fetched} bytes again of which {cut.fetched_durably} were durable")
    if machine.faults:
        return Outcome(boots, "completes at a later attempt")
    return Outcome(boots, "its lost entry is put back, completes" if restaged else "completes")


def check_recorded(story: Story, cut: Cut, counter: int) -> None:
    """What the journal says of the boot entry is so. Raises Failure.

    A release that is committed is what boots, unless the firmware lost its entry; one that is
    confirmed boots.
    """
    try:
        journal = json.loads(cut.media.state.get("tx.json") or b"{}")
    except ValueError:
        return  # check_state says it
    about = journal.get("last") or journal
    mine = (about.get("transaction") or {}).get("counter") == NEW
    committed = journal.get("state") == "committed" and not (cut.bumping or story.hung)
    if mine and counter != NEW and (committed or about.get("outcome") == "confirmed"):
        raise Failure(f"release {NEW} is on record as committed or confirmed, and does not boot")


def check_state(tree: Tree) -> None:
    """Every file that is replaced as a whole is whole. Raises Failure."""
    for path, data in tree.items():
        name = path.rpartition("/")[2]
        if data is None or name.startswith(".") or path.startswith(("files/", "spool/")):
            continue
        torn = False
        if name.endswith((".json", ".jsonl")):
            for line in data.splitlines() if name.endswith("l") else [data]:
                try:
                    json.loads(line)
                except ValueError:
                    torn = True
        if path.startswith("manifests/"):
            torn = name != f"{Digest.of(data)}.json"
        if name.startswith(("floor.", "time.")):
            torn = len(data) != 24 or zlib.crc32(data[:20]) != struct.unpack("<I", data[20:])[0]
        if name.endswith(".broken") or torn:
            raise Failure(f"state file {path} is torn")


def check_trusted(tree: Tree) -> None:
    """While an install is on record, the metadata that it was decided by is: an older one, served
    again, would not be noticed otherwise. Raises Failure.
    """
    journal = json.loads(tree.get("tx.json") or b"{}")
    opened = (journal.get("transaction") or {}).get("counter") == NEW
    if opened and f"releases/{NEW}.0/".encode() not in (tree.get("metadata/targets.json") or b""):
        raise Failure("the metadata that the install was decided by is not trusted any more")


def check_checkpoints(story: Story, media: Snapshot) -> None:
    """What a checkpoint says stands in the slot. Raises Failure."""
    raw = media.state.get("tx.log") or b""
    image = story.repository.images[NEW]
    for line in raw.split(b"\n")[:-1]:
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            return
        point = json.loads(body)
        if point["transaction"] != transaction_id(story.repository.manifests[NEW], "a"):
            continue
        if point["image"] == "rootfs":
            done = point["done_bytes"]
            if media.slots["slot-a.img"][:done] != image[:done]:
                raise Failure(f"a checkpoint says that {done} bytes stand, and they do not")
        else:
            kept = media.state.get("files/a/uki") or b""
            if kept[: point["done_bytes"]] != story.repository.ukis[NEW][: point["done_bytes"]]:
                raise Failure("a checkpoint says that the boot file stands, and it does not")


def check_end(story: Story, machine: Machine) -> bool:
    """The story's end. Raises Failure. True if a lost entry had to be put back on the way."""
    device = story.repository.device(machine.folder, machine.fetcher)
    good = story.sick == story.hung == frozenset()
    running = NEW if good else OLD
    state = device.journal.state
    entries = {one.slot: one for one in device.boot.entries()}
    denied = {one.counter: one.reason for one in device.slots.denied()}
    reports = {(one.kind, one.counter): one.reason for one in device.slots.reports()}
    problems = []

    def expect(what: str, got: object, expected: object) -> None:
        if got != expected:
            problems.append(f"{what}: expected {expected}, got {got}")

    expect("running release", machine.running, running)
    expect("journal", type(state), Idle)
    expect("slot b", story.repository.whole((machine.folder / "slot-b.img").read_bytes()), OLD)
    expect("entry of slot b", entries["b"].state if "b" in entries else None, EntryState.GOOD)
    expect("installed is reported", ("installed", NEW) in reports, True)
    if good:
        expect("slot a", story.repository.whole((machine.folder / "slot-a.img").read_bytes()), NEW)
        expect("entry of slot a", entries["a"].state if "a" in entries else None, EntryState.GOOD)
        expect("floor", device.floors.read(), story.repository.floors[NEW])
        expect("denied", denied, {})
        expect("confirmed is reported", ("confirmed", NEW) in reports, True)
        ended = Ended.CONFIRMED
    else:
        expect("floor", device.floors.read(), story.repository.floors[OLD])
        expect("denied", list(denied), [NEW])
        if story.sick:
            expect("why it was denied", denied.get(NEW), DOWN.reason)
            expect("why it is reported", reports.get(("fell_back", NEW)), DOWN.reason)
        expect("fall back is reported", ("fell_back", NEW) in reports, True)
        expect("confirmed is reported", ("confirmed", NEW) in reports, False)
        ended = Ended.FELL_BACK
    last = state.last if isinstance(state, Idle) else None
    expect("journal's last word", None if last is None else last.outcome, ended)
    if device.notices:
        problems.append(f"notices: {device.notices}")
    if problems:
        raise Failure("; ".join(problems))
    return last is not None and last.transaction.restages > 0


def key_of(media: Snapshot) -> tuple[bytes, bytes]:
    """Two digests: of every byte on the media, and of what a reader of them can see.

    They differ in the second copy of the FAT, in FSINFO's hints, and in clusters that are nobody's.
    """
    rest = _digest_of_rest(media)
    return rest + _digest_of(media.esp), rest + _view_of(media.esp)


def _digest_of_rest(media: Snapshot) -> bytes:
    """Of the state folder and the slots."""
    hasher = hashlib.blake2b(digest_size=8)
    for path, data in sorted(media.state.items(), key=lambda item: item[0]):
        hasher.update(path.encode() + (b"/" if data is None else b"\0" + _digest_of_bytes(data)))
    for name in sorted(media.slots):
        hasher.update(_digest_of_bytes(media.slots[name]))
    return hasher.digest()


_DIGESTS: dict[int, tuple[bytes, bytes]] = {}


def _digest_of_bytes(data: bytes) -> bytes:
    """States share most of their contents: each value is hashed once while it is remembered."""
    known = _DIGESTS.get(id(data))
    if known is None or known[0] is not data:
        if len(_DIGESTS) > 300:
            _DIGESTS.clear()
        known = _DIGESTS[id(data)] = (data, hashlib.sha1(data, usedforsecurity=False).digest())
    return known[1]


def _digest_of(sectors: Sectors) -> bytes:
    hasher = hashlib.blake2b(digest_size=8)
    for number in sorted(sectors):
        hasher.update(struct.pack("<I", number) + sectors[number])
    return hasher.digest()


_VIEWS: dict[bytes, bytes] = {}


def _view_of(sectors: Sectors) -> bytes:
    key = _digest_of(sectors)
    if key not in _VIEWS:
        hasher = hashlib.blake2b(digest_size=8)
        for firmware in (False, True):
            for path, node in read_volume(sectors, firmware=firmware).items():
                words = (path, node.start, node.size, node.clusters, node.damaged, node.records)
                hasher.update(repr(words).encode() + node.data)
        if len(_VIEWS) > 50_000:
            _VIEWS.clear()
        _VIEWS[key] = hasher.digest()
    return _VIEWS[key]


def _rest_of(machine: Machine) -> bytes:
    """What a device holds at a reboot, as far as it decides what comes: where the clusters of files
    stand does not, as long as no two share one.
    """
    nodes = read_volume(machine.vfat.cache, firmware=False)
    used = [cluster for node in nodes.values() for cluster in node.clusters]
    shared = len(used) != len(set(used))
    hasher = hashlib.blake2b(_digest_of_rest(machine.now()), digest_size=16)
    for path, node in nodes.items():
        place = node.clusters if shared else ()
        hasher.update(
            repr((path, node.size, node.damaged, place, node.records)).encode() + node.data
        )
    return hasher.digest()


def clean(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
