"""Which source file a target file was made from (build machine).

By path; by path with version numbers taken out (kernel modules stand below a folder that is named
after the version); by name alone. Pure: names and sizes in, pairs out. Content that resembles
content elsewhere is anchors.py's business: a wrong pair here costs payload size only.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from slipstream.delta.filemap import Entry

_VERSION = re.compile(r"\d+(?:[.\-+~:_]\d+|[a-z]\d+)*")


def pair_entries(sources: Sequence[Entry], targets: Sequence[Entry]) -> list[int | None]:
    """For each target entry the number of the source entry that it resembles most; None: none.

    A source entry may serve several targets. Among several candidates one of the very same name is
    taken before others (ath9k.ko is not ath10k.ko), then the one of the nearest size, then the
    first.
    """
    paired: list[int | None] = [None] * len(targets)
    for name_of in (_exact, _without_versions, _base_name):
        known: defaultdict[object, list[int]] = defaultdict(list)
        for number, entry in enumerate(sources):
            known[name_of(entry)].append(number)
        for number, entry in enumerate(targets):
            candidates = known.get(name_of(entry), ())
            if paired[number] is None and candidates:
                paired[number] = min(candidates, key=partial(_distance, sources, entry))
    return paired


def pair_once(sources: Sequence[Entry], targets: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Pairs (source, target) of which no two have the same source, in the order of the targets: of
    several targets that resemble a source the most, that of its very path, or else the first."""
    paired = pair_entries(sources, targets)
    served: dict[int, int] = {}
    for target, source in enumerate(paired):
        if source is None:
            continue
        same = _exact(sources[source]) == _exact(targets[target])
        if source not in served or same:
            served[source] = target
    for target, source in enumerate(paired):
        if source is not None and served[source] == target:
            yield source, target


def _distance(sources: Sequence[Entry], entry: Entry, number: int) -> tuple[bool, int, int]:
    source = sources[number]
    return (_name(source) != _name(entry), abs(source.size - entry.size), number)


def _name(entry: Entry) -> str:
    return entry.path.rpartition("/")[2]


def _exact(entry: Entry) -> object:
    return entry.kind, entry.path


def _without_versions(entry: Entry) -> object:
    return entry.kind, _VERSION.sub("#", entry.path)


def _base_name(entry: Entry) -> object:
    return entry.kind, _VERSION.sub("#", _name(entry))
