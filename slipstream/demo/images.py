"""Real input: Debian 12 root file systems and unified kernel images, built once and cached.

Release 1 comes from the main archive alone, release 2 has the security and updates archives,
release 3 is release 2 with a defect in its application. The archives are those that this
machine's own apt uses.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.errors import SlipstreamError

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv,udev,dbus,openssh-server,python3,curl,ca-certificates,iproute2,nftables,"
    "e2fsprogs,less,vim-tiny,ifupdown,kmod,procps,sudo,git,nginx-light,tzdata,tcpdump,strace"
)
# File dates inside the images: fixed, so that a rebuild of the same packages is the same image.
SOURCE_DATE_EPOCH = "1700000000"
IMAGE_BYTES = 480 * 1024 * 1024
# The large pair, for benchmarks only: with a kernel, an initrd and containerd.
LARGE_PACKAGES = f"{PACKAGES},linux-image-{{arch}},initramfs-tools,containerd"
LARGE_IMAGE_BYTES = 1200 * 1024 * 1024
# mkfs's own choice below 512 MB is 1 KiB blocks; a root file system that grows has 4 KiB.
MKFS = (
    "mkfs.ext4 -q -b 4096 -m 0 -O ^has_journal -U 6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0001 "
    "-E hash_seed=6a0f5c3e-51d3-4a5c-9d0b-2f4d9d1c0002,lazy_itable_init=0"
)
APPLICATION = Path("usr/lib/gateway/gateway")
RELEASE_FILE = Path("usr/lib/slipstream/release.json")

GOOD_APPLICATION = """#!/bin/sh
# The application of this device, as far as the demonstration needs one: its self-test.
echo "gateway {release}: self-test passed"
"""
BAD_APPLICATION = """#!/bin/sh
echo "gateway {release}: cannot read /etc/gateway/upstream.conf: No such file or directory" >&2
exit 1
"""


@dataclass(frozen=True, slots=True)
class DemoRelease:
    """What one release is made of: a root file system image, and the kernel for its UKI."""

    version: str
    counter: int
    image: Path
    kernel: Path


def debian_releases(cache: Path, say: Callable[[str], None]) -> tuple[DemoRelease, ...]:
    """Three releases of Debian 12 below `cache`, built where they are not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    main, later = _archives()
    kernels = debian_kernels(cache, say)
    first = cache / "debian-1.img"
    second = cache / "debian-2.img"
    third = cache / "debian-3.img"
    if not first.exists():
        say("building release 1: Debian 12, main archive alone (about a minute, cached)")
        _bootstrap(first, [main], "1", 1, GOOD_APPLICATION)
    if not (second.exists() and third.exists()):
        say("building releases 2 and 3: with the security and updates archives (cached)")
        _bootstrap(second, [main, *later], "2", 2, GOOD_APPLICATION)
        _spoil(second, third, "3", 3)
    return tuple(
        DemoRelease(str(n), n, image, kernels[min(n, 2) - 1])
        for n, image in enumerate((first, second, third), start=1)
    )


def debian_pair(cache: Path, say: Callable[[str], None], *, large: bool) -> tuple[Path, Path]:
    """Two Debian 12 images for benchmarks: the demonstration's (480 MiB), or 1200 MiB with a kernel."""
    if not large:
        first, second, _ = debian_releases(cache, say)
        return first.image, second.image
    cache.mkdir(parents=True, exist_ok=True)
    main, later = _archives()
    pair = (cache / "debian-large-1.img", cache / "debian-large-2.img")
    packages = LARGE_PACKAGES.format(arch=_debian_arch())
    for number, (image, archives) in enumerate(zip(pair, ([main], [main, *later]), strict=True), 1):
        if not image.exists():
            say(f"building {image.name}: Debian 12 with a kernel (two minutes, cached)")
            _bootstrap(
                image, archives, str(number), number, GOOD_APPLICATION, packages, LARGE_IMAGE_BYTES
            )
    return pair


def given_releases(
    source: Path, target: Path, cache: Path, say: Callable[[str], None]
) -> tuple[DemoRelease, ...]:
    """Three releases from any two images; the third is the second without its first 64 KiB."""
    cache.mkdir(parents=True, exist_ok=True)
    for image in (source, target):
        if not image.is_file() or image.stat().st_size == 0:
            raise SlipstreamError(
                "not an image file", where=image, hint="Give SOURCE=a.img TARGET=b.img"
            )
    broken = cache / "given-3.img"
    shutil.copyfile(target, broken)
    with broken.open("r+b") as file:
        file.write(bytes(min(65536, target.stat().st_size)))
    kernels = debian_kernels(cache, say)
    return (
        DemoRelease("1", 1, source, kernels[0]),
        DemoRelease("2", 2, target, kernels[1]),
        DemoRelease("3", 3, broken, kernels[1]),
    )


def debian_kernels(cache: Path, say: Callable[[str], None]) -> tuple[Path, Path]:
    """The kernels of Debian 12's main archive and of its security archive, as files."""
    paths = (cache / "vmlinuz-1", cache / "vmlinuz-2")
    if not all(path.exists() for path in paths):
        say("fetching the kernels of both releases (cached)")
        main, later = _archives()
        _fetch_kernel(paths[0], [main])
        _fetch_kernel(paths[1], [main, *later])
    return paths


def make_uki(kernel: Path, output: Path, *, version: str, cmdline: str) -> None:
    """A unified kernel image: systemd's stub with os-release, command line, and kernel."""
    stub = Path("/usr/lib/systemd/boot/efi/linux" + _efi_arch() + ".efi.stub")
    os_release = 'ID=gateway\nIMAGE_ID=gateway\nPRETTY_NAME="Gateway {v}"\nVERSION_ID={v}\nIMAGE_VERSION={v}\n'
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        osrel, line = Path(folder, "osrel"), Path(folder, "cmdline")
        osrel.write_text(os_release.format(v=version))
        line.write_text(cmdline)
        made = Path(folder, "uki")
        # Addresses as in ukify's predecessor recipe: above the stub, in ascending order.
        sections = (
            (".osrel", osrel, 0x20000),
            (".cmdline", line, 0x30000),
            (".linux", kernel, 0x2000000),
        )
        arguments = [
            word
            for name, path, address in sections
            for word in (
                "--add-section",
                f"{name}={path}",
                "--change-section-vma",
                f"{name}={address:#x}",
            )
        ]
        _run(["objcopy", *arguments, str(stub), str(made)])
        made.replace(output)


def _efi_arch() -> str:
    machine = os.uname().machine
    return {"x86_64": "x64", "aarch64": "aa64"}.get(machine, machine)


def _debian_arch() -> str:
    return subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _archives() -> tuple[str, list[str]]:
    """Source lines of Debian 12's main archive, and of its security and updates archives."""
    rows = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    found = {}
    for row in rows:
        uri, _, rest = row.partition(" ")
        release, _, component = rest.partition(" ")
        if component == "main" and release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security"):
            found[release] = f"deb {uri} {release} main"
    if len(found) != 3:
        raise SlipstreamError(
            "this machine's apt does not know Debian 12's archives",
            where="apt-get indextargets",
            expected=f"{SUITE}, {SUITE}-updates, {SUITE}-security",
            got=", ".join(sorted(found)) or "none",
            hint="Run apt-get update, or use make demo SOURCE=a.img TARGET=b.img on a Debian 12 machine",
        )
    return found[SUITE], [found[f"{SUITE}-updates"], found[f"{SUITE}-security"]]


def _bootstrap(
    image: Path,
    archives: list[str],
    version: str,
    counter: int,
    application: str,
    packages: str = PACKAGES,
    image_bytes: int = IMAGE_BYTES,
) -> None:
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        tar = Path(folder, "root.tar")
        _run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={packages}",
                "--aptopt=APT::Install-Recommends false",
                SUITE,
                str(tar),
                *archives,
            ]
        )
        overlay = Path(folder, "overlay")
        _write_overlay(overlay, version, counter, application)
        made = Path(folder, "image")
        # Ownership inside the image needs root, or fakeroot's word for it.
        script = (
            f'set -e; mkdir root; tar -C root -xf root.tar --exclude="./dev/*"; cp -a overlay/. root/; '
            f"find root -newermt @{SOURCE_DATE_EPOCH} -exec touch -hd @{SOURCE_DATE_EPOCH} {{}} +; "
            f"truncate -s {image_bytes} image; {MKFS} -d root image"
        )
        prefix = [] if os.geteuid() == 0 else ["fakeroot"]
        _run([*prefix, "sh", "-c", script], cwd=Path(folder))
        made.replace(image)


def _write_overlay(overlay: Path, version: str, counter: int, application: str) -> None:
    for path, text in (
        (APPLICATION, application.format(release=version)),
        (
            RELEASE_FILE,
            json.dumps(
                {
                    "product": "gateway",
                    "release": version,
                    "counter": counter,
                    "floor": 0,
                    "issued": 0,
                }
            )
            + "\n",
        ),
    ):
        (overlay / path).parent.mkdir(parents=True, exist_ok=True)
        (overlay / path).write_text(text)
    (overlay / APPLICATION).chmod(0o755)


def _spoil(image: Path, output: Path, version: str, counter: int) -> None:
    """Release 3: the image of release 2 with another application, written into the file system."""
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        copy = Path(folder, "image")
        shutil.copyfile(image, copy)
        overlay = Path(folder, "overlay")
        _write_overlay(overlay, version, counter, BAD_APPLICATION)
        commands = "".join(
            f"rm /{path}\nwrite {overlay / path} /{path}\nsif /{path} mode {mode}\n"
            for path, mode in ((APPLICATION, "0100755"), (RELEASE_FILE, "0100644"))
        )
        _run(["debugfs", "-w", "-f", "-", str(copy)], stdin=commands)
        copy.replace(output)


def _fetch_kernel(output: Path, archives: list[str]) -> None:
    """vmlinuz of the cloud kernel package that these archives would install today."""
    package = f"linux-image-cloud-{_debian_arch()}"
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        folder = Path(name)
        for part in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / part).mkdir(parents=True)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        lines = [line.replace("deb ", f"deb [signed-by={keys}] ", 1) for line in archives]
        (folder / "sources.list").write_text("\n".join(lines) + "\n")
        options = [
            f"Dir::State::lists={folder}/lists",
            f"Dir::Cache={folder}/cache",
            f"Dir::Etc::sourcelist={folder}/sources.list",
            f"Dir::Etc::sourceparts={folder}/parts",
            "APT::Sandbox::User=root",
        ]
        flags = [word for option in options for word in ("-o", option)]
        _run(["apt-get", *flags, "-qq", "update"])
        depends = subprocess.run(
            ["apt-cache", *flags, "depends", package], capture_output=True, text=True, check=True
        ).stdout
        real = next(
            line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line
        )
        _run(["apt-get", *flags, "-qq", "download", real], cwd=folder)
        _run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), "unpacked"], cwd=folder)
        next(folder.glob("unpacked/boot/vmlinuz-*")).replace(output)


def _run(words: list[str], *, cwd: Path | None = None, stdin: str | None = None) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH}
    done = subprocess.run(
        words, cwd=cwd, input=stdin, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        tail = (done.stderr or done.stdout).strip()[-1500:]
        raise SlipstreamError(f"{words[0]} failed with exit code {done.returncode}", got=tail)
