"""The releases that are published to the guest: one that works, and one for each way to fail.

All are release 2 over the same release 1, each in a repository of its own, which is cached: a copy
of the repository that knows release 1 only, with one more `slipstream repo publish`. What is wrong
with a release stands on its UKI's command line; its root file system is release 2's (rootfs/).
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from e2e.firmware import Keys, make_keys
from e2e.guest import PRODUCT, Guest
from slipstream.demo.commands import run_slipstream

PANIC_S = 3
Say = Callable[[str], None]
# roothash=, gpt and the reset on corruption are put in front of it by `slipstream repo uki`.
CMDLINE = (
    "ro console=ttyS0 quiet loglevel=4 net.ifnames=0 systemd.show_status=no random.trust_cpu=on"
)


class Fault(StrEnum):
    """How a release fails; the word on its command line."""

    NONE = "none"
    PANIC = "panic"
    HANG = "hang"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Variant:
    """One release 2: how it fails, whether there is a delta to it, and whether its UKI is signed."""

    name: str
    fault: Fault = Fault.NONE
    delta: bool = True
    signed: bool = True
    kernel: str = "cloud"


FULL = Variant("full", delta=False)
GOOD = Variant("good")
PANIC = Variant("panic", Fault.PANIC)
HANG = Variant("hang", Fault.HANG, kernel="general")
UNHEALTHY = Variant("unhealthy", Fault.UNHEALTHY)
UNSIGNED = Variant("unsigned", signed=False)


@dataclass(frozen=True, slots=True)
class Published:
    """A repository with release 1 and perhaps one release 2, and what stands beside it."""

    folder: Path
    keys: Keys

    @property
    def repo(self) -> Path:
        """The repository."""
        return self.folder / "repo"

    def uki(self, release: int) -> Path:
        """The UKI of a release, as it was published."""
        return self.folder / f"uki-{release}.efi"

    def tree(self, release: int) -> dict[str, str]:
        """The tuple of a release's root file system, as `slipstream repo root-hash --json` has it."""
        found: dict[str, str] = json.loads((self.folder / f"tree-{release}.json").read_text())
        return found

    def root(self, release: int) -> str:
        """The root hash of a release's root file system, in hex."""
        return self.tree(release)["root"]


def publish_variant(cache: Path, guest: Guest, variant: Variant, say: Say) -> Published:
    """A variant's repository, from the cache or made now. Raises SlipstreamError."""
    keys = owner_keys(cache)
    return _cached(
        cache,
        f"repo-{variant.name}-{guest.key}",
        lambda folder: _publish_second(folder, cache, guest, variant, keys, say),
        keys,
        say,
    )


def owner_keys(cache: Path) -> Keys:
    """The keys that sign boot loader and UKIs: made once for a cache."""
    folder = cache / "keys"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            make_keys(Path(scratch, "keys"))
            Path(scratch, "keys").rename(folder)
    return Keys(folder)


def _cached(
    cache: Path, name: str, make: Callable[[Path], None], keys: Keys, say: Say
) -> Published:
    folder = cache / name
    if not folder.is_dir():
        say(f"publishing {name} (cached)")
        for old in cache.glob(f"{name.rpartition('-guest-')[0]}-guest-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".publishing-") as scratch:
            made = Path(scratch, "made")
            made.mkdir()
            make(made)
            made.rename(folder)
    return Published(folder, keys)


def _publish_first(folder: Path, guest: Guest, keys: Keys) -> None:
    repo = folder / "repo"
    run_slipstream("repo", "init", str(repo), "--product", PRODUCT, "--insecure-no-passphrase", say=_quiet)  # fmt: skip
    _publish(folder, guest, 1, Variant("factory", delta=False), keys)


def _publish_second(
    folder: Path, cache: Path, guest: Guest, variant: Variant, keys: Keys, say: Say
) -> None:
    name = f"repo-factory-{guest.key}"
    first = _cached(cache, name, lambda made: _publish_first(made, guest, keys), keys, say)
    shutil.copytree(first.folder, folder, dirs_exist_ok=True)
    _publish(folder, guest, 2, variant, keys)


def _publish(folder: Path, guest: Guest, release: int, variant: Variant, keys: Keys) -> None:
    repo, rootfs = folder / "repo", guest.rootfs(release)
    (tree,) = run_slipstream("repo", "root-hash", str(repo), str(rootfs), "--json", say=_quiet).lines  # fmt: skip
    (folder / f"tree-{release}.json").write_text(json.dumps(tree))
    cmdline = f"panic={PANIC_S} {CMDLINE}"
    if variant.fault is not Fault.NONE:
        cmdline += f" e2e.fault={variant.fault}"
    uki, os_release = folder / f"uki-{release}.efi", folder / "os-release"
    os_release.write_text(f'ID=gateway\nPRETTY_NAME="Gateway {release}"\n')
    signed = ("--sign-key", str(keys.folder / "db.key"), "--sign-cert", str(keys.folder / "db.crt"))
    run_slipstream(
        *("repo", "uki", str(repo), "--image", f"rootfs={rootfs}", "--version", str(release)),
        *(
            "--linux",
            str(guest.kernel(variant.kernel)),
            "--initrd",
            str(guest.initrd(variant.kernel)),
        ),
        *("--os-release", str(os_release), "--cmdline", cmdline, "--output", str(uki)),
        *(signed if variant.signed else ()),
        say=_quiet,
    )
    images = ("--image", f"rootfs={rootfs}", "--image", f"uki={uki}")
    delta = ("--delta-from", "1") if release == 2 and variant.delta else ()
    options = ("--version", str(release), "--profile", "fast", *images, *delta)
    run_slipstream("repo", "publish", str(repo), *options, say=_quiet)


def _quiet(_: str) -> None:
    """What the commands say is not part of the tests' own output."""
