"""Root trees of the benchmark corpus: Debian packages, unpacked and configured by mmdebstrap.

A tree is what a release contains before anybody chose a file system for it. Documents and manual
pages stay as Debian ships them, gzip included; the initrd is made by initramfs-tools with GNU gzip,
which is what it does where no other compressor is installed.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benches.shell import run
from slipstream.delta.errors import SlipstreamError
from slipstream.demo.images import LARGE_PACKAGES, PACKAGES, SOURCE_DATE_EPOCH

MIB = 1 << 20
MAJOR_SUITE = "trixie"  # Debian 13
# The older version of one package beside today's versions of all others: apt prefers it by a pin.
# The pin leaves the tree again; a setting of sshd differs as well.
ONE_PACKAGE = "libssl3"
_PIN = f"Package: {ONE_PACKAGE}\\nPin: release n=bookworm\\nPin-Priority: 1001\\n"
_PIN_FOLDER = '"$1/etc/apt/preferences.d"'
ONE_CHANGE = (
    f"--setup-hook=mkdir -p {_PIN_FOLDER} && printf '{_PIN}' >{_PIN_FOLDER}/one",
    f"--customize-hook=rm {_PIN_FOLDER}/one",
    '--customize-hook=sed -i "s/^#MaxAuthTries .*/MaxAuthTries 3/" "$1/etc/ssh/sshd_config"',
)
_UNRELATED = "fonts-noto-core,fonts-noto-extra,sound-theme-freedesktop"


@dataclass(frozen=True, slots=True)
class Tree:
    """One root tree: which packages of which archives, and how large its ext4 images are."""

    name: str
    suite: str
    later: bool  # with the security and updates archives
    large: bool  # with a kernel, an initrd and containerd
    image_bytes: int
    more: tuple[str, ...] = ()  # further arguments of mmdebstrap
    alone: str = ""  # nothing but these packages, unpacked and not configured

    @property
    def recipe(self) -> str:
        """Names what is in the tree; two trees of one recipe share their archive file."""
        if self.alone:
            return f"{self.suite}-{self.name}"
        return "-".join(
            (
                self.suite,
                "large" if self.large else "small",
                "later" if self.later else "main",
                *(("one",) if self.more else ()),
            )
        )


# An image has the size of its slot, so both trees of a pair have the same; Debian 13 needs more
# than the 480 MiB in which Debian 12 fits.
SMALL, LARGE, MAJOR = 480 * MIB, 1200 * MIB, 640 * MIB
TREES = {
    tree.name: tree
    for tree in (
        Tree("small-1", "bookworm", later=False, large=False, image_bytes=SMALL),
        Tree("small-2", "bookworm", later=True, large=False, image_bytes=SMALL),
        Tree("full-1", "bookworm", later=False, large=True, image_bytes=LARGE),
        Tree("full-2", "bookworm", later=True, large=True, image_bytes=LARGE),
        Tree("one-1", "bookworm", later=True, large=False, image_bytes=SMALL, more=ONE_CHANGE),
        Tree("major-1", "bookworm", later=True, large=False, image_bytes=MAJOR),
        Tree("major-2", MAJOR_SUITE, later=True, large=False, image_bytes=MAJOR),
        # Fonts and sounds: nothing that a root file system has.
        Tree("other", "bookworm", later=False, large=False, image_bytes=SMALL, alone=_UNRELATED),
    )
}


def unpacked(tree: Tree, cache: Path) -> Path:
    """The folder of the tree's files, built where it is not there yet.

    Without root, owners are fakeroot's word: they stand in the file FOLDER.owners (shell.py).
    """
    folder = cache / tree.recipe
    if folder.is_dir():
        return folder
    archive = cache / f"{tree.recipe}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _bootstrap(tree, archive)
    unpack(archive, folder)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Files of a tar archive below `folder`, with fixed dates and without device nodes."""
    part = folder.with_suffix(".part")
    run(
        'rm -rf "$PART"; mkdir "$PART"; tar -C "$PART" -xf "$TAR" --exclude="./dev/*"; '
        'find "$PART" -newermt "@$EPOCH" -exec touch -hd "@$EPOCH" {} +',
        owners=folder,
        PART=part,
        TAR=archive,
        EPOCH=SOURCE_DATE_EPOCH,
    )
    part.replace(folder)


def _bootstrap(tree: Tree, archive: Path) -> None:
    part = archive.with_suffix(".part.tar")
    packages = LARGE_PACKAGES if tree.large else PACKAGES
    packages = tree.alone or packages.format(arch=debian_architecture())
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            f"--variant={'extract' if tree.alone else 'minbase'}",
            f"--include={packages}",
            "--aptopt=APT::Install-Recommends false",
            *tree.more,
            tree.suite,
            str(part),
            *sources(tree.suite, later=tree.later),
        ],
        check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
    )
    part.replace(archive)


def debian_architecture() -> str:
    """As dpkg calls it: amd64, arm64."""
    return _output("dpkg", "--print-architecture").strip()


def sources(suite: str, *, later: bool) -> list[str]:
    """Source lines of a suite's main archive, and with `later` of its updates and security archives,
    on the mirrors that this machine's apt uses."""
    found = {}
    for row in _output("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)").split("\n"):
        release, _, uri = row.partition(" ")
        found[release] = uri
    if not {"bookworm", "bookworm-security"} <= found.keys():
        raise SlipstreamError(
            "this machine's apt does not know Debian 12's archives",
            where="apt-get indextargets",
            expected="bookworm, bookworm-security",
            got=", ".join(sorted(found)) or "none",
            hint="Run apt-get update on a Debian 12 machine",
        )
    main, security = found["bookworm"], found["bookworm-security"]
    lines = [f"deb {main} {suite} main"]
    if later:
        lines += [
            f"deb {main} {suite}-updates main",
            f"deb {security} {suite}-security main",
        ]
    return lines


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
