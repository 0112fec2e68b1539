"""The names of a release's images, compared with those of the release before it.

A name says which partition of a slot an image is for. Misspelt, it would be signed as any other, and
every device would refuse the release: it has no such partition, or one that stays as it was.
"""

import difflib
from collections.abc import Collection

from tuf.api.metadata import Targets

from slipstream.delta.cmdline import root_option
from slipstream.delta.errors import UsageError
from slipstream.delta.manifest import Manifest
from slipstream.server.releases import list_releases, read_manifest
from slipstream.server.repo import Repository

OPTION = "--change-images"


def read_last(
    repo: Repository, targets: Targets, channel: str, *, besides: str | None = None
) -> Manifest | None:
    """The release to compare with: the channel's with the highest counter, or the product's.

    None where nothing is published `besides` that version. Raises Rejected for a manifest that was
    tampered with.
    """
    known = [one for one in list_releases(targets).values() if one.release != besides]
    mine = [entry for entry in known if entry.channel == channel] or known
    return read_manifest(repo, targets, mine[-1].release) if mine else None


def check_image_names(names: Collection[str], last: Manifest | None, where: str) -> None:
    """UsageError unless a release with these images has those of `last`, by name."""
    if last is not None:
        _compare(names, [image.name for image in last.images], last, where)


def check_mounted_names(names: Collection[str], last: Manifest | None, where: str) -> None:
    """The same for a kernel, which names only the images that systemd mounts by a root hash."""
    if last is not None:
        wanted = [image.name for image in last.images if root_option(image.name) is not None]
        _compare(names, wanted, last, where)


def _compare(names: Collection[str], wanted: Collection[str], last: Manifest, where: str) -> None:
    new = [name for name in names if name not in wanted]
    missing = [name for name in wanted if name not in names]
    if not new and not missing:
        return
    near = [(name, difflib.get_close_matches(name, missing, 1)) for name in new]
    spelt = "".join(f"Did you mean {found[0]} for {name}? " for name, found in near if found)
    raise UsageError(
        f"the images are not named as those of release {last.release}",
        where=where,
        expected=", ".join(sorted(wanted)) or "none",
        got=", ".join(sorted(names)),
        hint=f"{spelt}A device takes an image only for a partition of its name; if the change is "
        f"meant, say {OPTION}",
    )
