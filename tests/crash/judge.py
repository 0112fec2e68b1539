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
from tests.crash.machine import DOWN, Machine, Snapshot, Start, Stuck, start_of
from tests.crash.media import Tree
from tests.crash.repository import FRAME_BYTES, Dead
from tests.crash.story import NEW, OLD, Story
from tests.crash.volume import Sectors, digest_of, read_volume
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
    """A state of all media, how much of the download was not durable when the power went, and whether
    the firmware was just renaming. `checked`: fsck.vfat runs between boot loader and installer.
    """

    media: Snapshot
    may_fetch: int
    bumping: bool = False
    checked: bool = False


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
    counter = story.repository.counter_of(start.boots)
    if counter not in (OLD, NEW):
        raise Failure(f"boots release {counter}, which is neither the old one nor the new one")
    boots = "the old release"
    if counter == NEW:
        boots = "the new release, " + ("confirmed" if start.tries_left is None else "on trial")
    spent = _is_spent(story, start)
    if not spent:
        check_recorded(story, cut, counter)
    check_state(media.state)
    check_trusted(media.state)
    check_checkpoints(story, media)
    machine = story.machine(folder, media, sources=False, is_known=is_known, checked=cut.checked)
    try:
        machine.drive()
        machine.check_esp()
        story.repository.check_tables(machine.slots().__getitem__)
    except (Dead, Stuck) as error:
        raise Failure(f"{boots} boots, then: {error}; boots {machine.booted}") from error
    except SlipstreamError as error:
        raise Failure(f"{boots} boots, then: {error}") from error
    known = bool(passed) and passed[-1] in finished
    restaged = finished[passed[-1]] if known else check_end(story, machine, spent=spent)
    finished |= dict.fromkeys(passed, restaged)
    fetched = machine.fetcher.bytes_sent
    if counter == OLD and fetched > cut.may_fetch + REFETCH_SLACK_BYTES:
        raise Failure(f"fetched {fetched} bytes, of which {cut.may_fetch} were not durable")
    if spent:
        return Outcome(boots, "power cuts took all its tries: falls back")
    if machine.faults:
        return Outcome(boots, "completes at a later attempt")
    return Outcome(boots, "its lost entry is put back, completes" if restaged else "completes")


def _is_spent(story: Story, start: Start) -> bool:
    """Whether a good release has no try left, since the power went in each of its starts.

    One cut takes at most one try: only a story that began with a cut can come to this.
    """
    names = [name for name, _, boots in start.menu if story.repository.counter_of(boots) == NEW]
    may_be = story.is_good and bool(story.origin)
    return may_be and bool(names) and all("+0-" in name for name in names)


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
        done, name = point["done_bytes"], point["image"]
        if name == "rootfs":
            if story.repository.slot("a", media.slots.__getitem__)[:done] != image[:done]:
                raise Failure(f"a checkpoint says that {done} bytes stand, and they do not")
        else:
            kept = media.state.get(f"files/a/{name}") or b""
            if kept[:done] != story.repository.boot_files[NEW][name][:done]:
                raise Failure("a checkpoint says that the boot file stands, and it does not")


def check_end(story: Story, machine: Machine, *, spent: bool = False) -> bool:
    """The story's end. Raises Failure. True if a lost entry had to be put back on the way."""
    device = story.repository.device(machine.folder, machine.fetcher)
    good = story.is_good and not spent
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
    slots = machine.slots().__getitem__
    expect("slot b", story.repository.whole("b", slots), OLD)
    expect("entry of slot b", entries["b"].state if "b" in entries else None, EntryState.GOOD)
    expect("installed is reported", ("installed", NEW) in reports, True)
    if good:
        expect("slot a", story.repository.whole("a", slots), NEW)
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
    return rest + digest_of(media.esp), rest + view_of(media.esp)


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


_VIEWS: dict[bytes, bytes] = {}


def view_of(sectors: Sectors) -> bytes:
    """A digest of what firmware and Linux see on a volume."""
    key = digest_of(sectors)
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
