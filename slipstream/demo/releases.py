"""The releases that the demonstration publishes: real Debian 12 ones, or made of any two images.

Debian's release 1 comes from the main archive alone, release 2 has the security and updates
archives, release 3 is release 2 with a defect in its application. What is built is kept in a
cache folder.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.archives import Archives, bootstrap, fetch_kernel
from slipstream.demo.images import PACKAGES, make_images, spoil

HEAD_BYTES = 65536  # without them no file system of any kind is recognised


@dataclass(frozen=True, slots=True)
class DemoRelease:
    """What one release is made of: a root file system image, and the kernel for its UKI."""

    counter: int
    image: Path
    kernel: Path

    @property
    def version(self) -> str:
        """As it is published: the counter in decimal."""
        return str(self.counter)


@dataclass(frozen=True, slots=True)
class DemoReleases:
    """A release, a better one, a broken one; and the first two again as squashfs, if there are.

    `kind` is what the table says of the first three beside the release, with a comma before it.
    """

    first: DemoRelease
    second: DemoRelease
    broken: DemoRelease
    squashfs: tuple[DemoRelease, DemoRelease] | None = None
    kind: str = ""


def debian_releases(cache: Path, say: Callable[[str], None]) -> DemoReleases:
    """The releases of Debian 12 below `cache`, built where they are not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    kernels = _kernels(cache, say)
    ext4, squashfs = (
        [cache / f"debian-{counter}.{kind}" for counter in (1, 2)] for kind in ("ext4", "squashfs")
    )
    words = ("the main archive alone", "with the security and updates archives")
    for release, what, *images in zip((1, 2), words, ext4, squashfs, strict=True):
        if not all(image.exists() for image in images):
            say(f"building release {release}: Debian 12, {what} (a minute or two, cached)")
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                tar = Path(folder, "root.tar")
                bootstrap(PACKAGES, Archives.of_this_machine().of_release(release), tar)
                make_images(tar, release, *images)
    broken = cache / "debian-3.ext4"
    if not broken.exists() or broken.stat().st_mtime < ext4[1].stat().st_mtime:
        say("building release 3: release 2 with a defect (cached)")
        spoil(ext4[1], broken, 3)
    return DemoReleases(
        DemoRelease(1, ext4[0], kernels[0]),
        DemoRelease(2, ext4[1], kernels[1]),
        DemoRelease(3, broken, kernels[1]),
        (DemoRelease(1, squashfs[0], kernels[0]), DemoRelease(2, squashfs[1], kernels[1])),
        kind=", ext4",
    )


def given_releases(
    source: Path, target: Path, cache: Path, say: Callable[[str], None]
) -> DemoReleases:
    """Releases from any two images; the broken one is the second without its first 64 KiB."""
    cache.mkdir(parents=True, exist_ok=True)
    for image in (source, target):
        if not image.is_file() or image.stat().st_size == 0:
            raise SlipstreamError(
                "not an image file", where=image, hint="Give SOURCE=a.img TARGET=b.img"
            )
    kernels = _kernels(cache, say)
    broken = cache / "given-3.img"
    without_head(target, broken)
    return DemoReleases(
        DemoRelease(1, source, kernels[0]),
        DemoRelease(2, target, kernels[1]),
        DemoRelease(3, broken, kernels[1]),
    )


def without_head(image: Path, output: Path) -> None:
    """A copy of an image that no kernel can mount: its first HEAD_BYTES are zero."""
    shutil.copyfile(image, output)
    with output.open("r+b") as file:
        file.write(bytes(min(HEAD_BYTES, image.stat().st_size)))


def _kernels(cache: Path, say: Callable[[str], None]) -> tuple[Path, Path]:
    """The kernels of Debian 12's main archive, and of all three."""
    paths = (cache / "vmlinuz-1", cache / "vmlinuz-2")
    if not all(path.exists() for path in paths):
        say("fetching the kernels of both releases (cached)")
        for release, path in enumerate(paths, 1):
            fetch_kernel(Archives.of_this_machine().of_release(release), path)
    return paths
