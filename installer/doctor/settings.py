"""Findings in the configuration: what every install would be refused for, whatever is offered.

By the very checks that an install makes, on the very places; everything is opened read-only. What
no file on the device tells, the command line of a release that is not here yet, is its own check.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

from slipstream.delta.cmdline import root_option, root_words
from slipstream.delta.errors import DeviceFault, SlipstreamError, UsageError, WrongDevice
from slipstream.delta.manifest import Manifest
from slipstream.installer.boot.command_line import check_trees, refuse_bare
from slipstream.installer.config import Config, Verity, tree_name
from slipstream.installer.doctor.finding import Check, Finding, Severity
from slipstream.installer.plan import bare_images
from slipstream.installer.prepare import check_cmdline, check_slots
from slipstream.installer.slot import identify


def setting_findings(config: Config, manifests: Iterable[Manifest]) -> Iterator[Finding]:
    """What is wrong in the configuration; `manifests` are those of the releases in the slots."""
    try:
        check_cmdline(config)
    except UsageError as error:
        mend = "leave [boot] cmdline out: /proc/cmdline is meant by default"
        yield _fault(Check.CMDLINE, error, str(config.path), mend)
    places = [place for slot in config.slots.values() for place in slot.partitions.values()]
    if not all(os.path.exists(place.path) for place in places):
        return  # said with the disks; what the rest would say follows from it
    try:
        check_slots(config)
        sizes = _sizes(config)
    except DeviceFault as error:
        mend = error.hint or "correct [slots]"
        yield _fault(Check.SLOTS, error, str(error.where or config.path), mend)
        return
    try:
        _check_hash_trees(config, tuple(manifests), sizes)
    except WrongDevice as error:
        mend = f"{error.expected}. {error.hint}"
        yield _fault(Check.NO_HASH_TREE, error, str(config.path), mend)


def _fault(check: Check, error: SlipstreamError, where: str, mend: str) -> Finding:
    text = error.what if error.got is None else f"{error.what}; got {error.got}"
    return Finding(check, Severity.FAULT, where, f"{text}: every update is refused", mend)


def _sizes(config: Config) -> dict[str, int]:
    """Bytes of the partitions, by name: of several slots' the smallest. Raises DeviceFault."""
    sizes: dict[str, int] = {}
    for slot in config.slots.values():
        for name, place in slot.partitions.items():
            size = identify(place, f"{slot.name}/{name}").range.size
            sizes[name] = min(size, sizes.get(name, size))
    return sizes


def _check_hash_trees(
    config: Config, manifests: tuple[Manifest, ...], sizes: Mapping[str, int]
) -> None:
    """Releases like the newest one here, and like the running one, would have the hash trees that
    they open by a root hash. Raises WrongDevice."""
    cmdline = _read_cmdline(config)
    newest = max(manifests, key=lambda one: one.counter, default=None)
    if newest is not None:
        bare = bare_images(newest, config.verity, sizes)
        check_trees(newest, bare)
        cmdline = f"{cmdline} {newest.boot.options}"
    elif config.verity is Verity.NONE:
        bare = frozenset(name for name in sizes if tree_name(name) not in sizes)
    else:
        return  # whether there is room behind an image is known with the image
    options = {word.option for word in root_words(cmdline)}
    refuse_bare(
        "the running release", (name for name in sizes if root_option(name) in options), bare
    )


def _read_cmdline(config: Config) -> str:
    try:
        return config.boot.cmdline.read_text("utf-8", "replace")
    except OSError:  # that is a finding of its own
        return ""
