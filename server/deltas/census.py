"""Which deltas are worth building, from what the fleet runs. Pure.

A pair's worth is what its devices would not have to download: devices times (full payload less the
delta, which is not known before it is built and taken to be like those that are).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from slipstream.delta.limits import DELTA_SHARE_ASSUMED
from slipstream.server.catalog import Catalog, Release


@dataclass(frozen=True, slots=True)
class Pair:
    """A delta that could be built."""

    product: str
    source: str  # release
    target: str
    devices: int  # that run the source and are to run the target
    saving_bytes: int  # of all their downloads together, by estimate


def plan_pairs(
    catalog: Catalog,
    targets: Iterable[tuple[str, str]],
    census: Mapping[tuple[str, str], int],
    saving_bytes_min: int,
) -> tuple[Pair, ...]:
    """The pairs worth building, the one that saves most first.

    `targets` are the (product, release) that rollouts offer; `census` the number of devices that
    wait for them, by (product, release that they run). A pair whose images all have their delta,
    or are the same, is none.
    """
    share = delta_share(catalog.releases)
    pairs = []
    for product, name in dict.fromkeys(targets):
        target = catalog.find(product, name)
        if target is None:
            continue
        for (owner, running), devices in census.items():
            source = catalog.find(product, running) if owner == product else None
            if source is None or source.counter >= target.counter:
                continue
            saving = devices * round(_full_bytes(source, target) * (1 - share))
            if saving >= max(1, saving_bytes_min):
                pairs.append(Pair(product, running, name, devices, saving))
    return tuple(sorted(pairs, key=lambda one: (-one.saving_bytes, one.source, one.target)))


def pair_bytes(catalog: Catalog, product: str, source: str, target: str) -> int | None:
    """Bytes of the deltas that lead from one release to another; None: there is none."""
    before, after = catalog.find(product, source), catalog.find(product, target)
    if before is None or after is None:
        return None
    roots = {(image.image, image.root) for image in before.images}
    sizes = [one.payload_bytes for one in after.deltas if (one.image, one.source_root) in roots]
    return sum(sizes) if sizes else None


def saved_bytes(
    catalog: Catalog, product: str, target: str, came_from: Mapping[str | None, int]
) -> int:
    """What devices did not have to download because there were deltas, with those there are now."""
    release = catalog.find(product, target)
    if release is None:
        return 0
    saved = 0
    for source, devices in came_from.items():
        before = None if source is None else catalog.find(product, source)
        roots = {} if before is None else {one.image: one.root for one in before.images}
        for image in release.images:
            full = image.payload_bytes or 0
            sizes = [
                one.payload_bytes
                for one in release.deltas
                if one.image == image.image and one.source_root == roots.get(image.image)
            ]
            if roots.get(image.image) == image.root:
                saved += devices * full
            elif sizes:
                saved += devices * max(0, full - min(sizes))
    return saved


def delta_share(releases: Sequence[Release]) -> float:
    """What part of a full payload a delta of this repository takes: the median of those it has."""
    shares = [
        delta.payload_bytes / full
        for release in releases
        for delta in release.deltas
        if (full := _full_of(release, delta.image))
    ]
    return min(1.0, median(shares)) if shares else DELTA_SHARE_ASSUMED


def _full_bytes(source: Release, target: Release) -> int:
    """Full payloads that a device on `source` downloads for want of a delta."""
    roots = {image.image: image.root for image in source.images}
    there = {(delta.image, delta.source_root) for delta in target.deltas}
    return sum(
        image.payload_bytes or 0
        for image in target.images
        if roots.get(image.image) not in (None, image.root)
        and (image.image, roots[image.image]) not in there
    )


def _full_of(release: Release, name: str) -> int:
    return next((one.payload_bytes or 0 for one in release.images if one.image == name), 0)
