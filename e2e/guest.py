"""What the guest runs: the root file systems, kernels and initrds of its releases, built and cached.

Three layers below the cache folder, each named by a digest of all that it is made of: Debian's
packages (`base-`), the Python packages that the device extra of pyproject.toml names (`python-`),
and the images with this working tree's code in them (`guest-`). A layer appears whole or not at all.

The root file system is that of an appliance: read-only, without a package manager, one partition
for what must stay. Kernel modules stand in the initrd only, so that a release's UKI is all of its
kernel. Two root file systems differ as two releases of an application do: its program, its data
and the files that name the release.
"""

import hashlib
import json
import random
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.initrd import make_initrd
from slipstream.demo.archives import Archives, bootstrap, unpack_kernel
from slipstream.demo.tools import SOURCE_DATE_EPOCH, run_tool

REPOSITORY = Path(__file__).resolve().parent.parent
ROOTFS = Path(__file__).parent / "rootfs"
PRODUCT = "gateway"
PACKAGES = "systemd-sysv,udev,python3,busybox-static,cryptsetup-bin,kmod,qemu-guest-agent"
# cloud starts in half the processor time; only the general kernel has the hardware watchdog's driver.
KERNELS = ("cloud", "general")
KERNEL_PACKAGES = {"cloud": "linux-image-cloud-{arch}", "general": "linux-image-{arch}"}
# What an appliance does not carry. Perl, apt and dpkg are essential to Debian's installer only.
TRIMMED = """
usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/bug usr/share/lintian
usr/share/perl usr/share/perl5 usr/share/i18n usr/share/bash-completion usr/share/common-licenses
usr/share/zsh usr/share/debconf usr/share/keyrings usr/share/zoneinfo usr/share/gcc
usr/lib/x86_64-linux-gnu/perl* usr/lib/x86_64-linux-gnu/gconv usr/lib/apt usr/lib/dpkg
usr/lib/udev/hwdb.bin usr/lib/udev/hwdb.d usr/bin/perl* usr/bin/apt* usr/bin/dpkg* usr/bin/gpgv
usr/bin/localedef usr/lib/x86_64-linux-gnu/libapt-* usr/lib/x86_64-linux-gnu/libperl*
usr/lib/x86_64-linux-gnu/libgnutls* usr/lib/x86_64-linux-gnu/libhogweed*
usr/lib/x86_64-linux-gnu/libnettle* usr/lib/x86_64-linux-gnu/libunistring*
usr/lib/x86_64-linux-gnu/libdb-5* usr/lib/x86_64-linux-gnu/libstdc++* usr/lib/x86_64-linux-gnu/libp11*
usr/lib/python3.11/pydoc_data usr/lib/python3.11/lib2to3 usr/lib/python3.11/ensurepip
usr/lib/python3.11/idlelib usr/lib/python3.11/test
var/cache/apt var/cache/debconf var/lib/apt var/lib/dpkg
"""
# Nobody logs in, and nothing is written to the root file system: what would try to is not started.
MASKED = """
veritysetup.target getty.target getty-static.service serial-getty@ttyS0.service systemd-logind.service
apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
fstrim.timer systemd-firstboot.service systemd-machine-id-commit.service systemd-random-seed.service
systemd-repart.service systemd-sysusers.service systemd-update-utmp.service
systemd-update-utmp-runlevel.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
systemd-pstore.service systemd-journal-flush.service systemd-user-sessions.service
remote-fs.target systemd-ask-password-console.path systemd-ask-password-wall.path
dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
sys-fs-fuse-connections.mount sys-kernel-config.mount systemd-tmpfiles-clean.timer
cryptsetup.target integritysetup.target kmod-static-nodes.service
"""
ENABLED = ("slipstream", "network-static", "e2e-fault", "qemu-guest-agent")
DATA_LINES = 60_000
DATA_CHANGED = 0.02  # of the lines, between two releases
# $1: a Python 3.11. Bytecode that names no times: the guest cannot write what it would compile again
# at every start. zstd at level 3: what the guest packs again costs little there.
BUILD = f"""
set -e
mkdir root
tar -C root -xf base.tar --exclude="./dev/*"
cp -r python/. root/usr/lib/python3/dist-packages/
cp -r overlay/. root/
find root/usr/lib/python3/dist-packages -name "*.so" -exec strip --strip-unneeded {{}} +
find root/usr/lib/python3 root/usr/lib/python3.11 -name "*.pyc" -delete
"$1" -m compileall -q --invalidation-mode=unchecked-hash -s root root/usr/lib/python3 root/usr/lib/python3.11
for release in 1 2; do
    cp -r releases/$release/. root/
    find root -newermt @{SOURCE_DATE_EPOCH} -exec touch -hd @{SOURCE_DATE_EPOCH} {{}} +
    mksquashfs root rootfs-$release.squashfs -comp zstd -Xcompression-level 3 -all-root \\
        -noappend -quiet -no-progress
done
"""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Guest:
    """What was built: two root file systems, and a kernel with its initrd of each kind."""

    folder: Path

    @property
    def key(self) -> str:
        """Names all the bytes in it."""
        return self.folder.name

    def rootfs(self, release: int) -> Path:
        """The squashfs image of release 1 or 2."""
        return self.folder / f"rootfs-{release}.squashfs"

    def kernel(self, kind: str) -> Path:
        """vmlinuz of one of KERNELS."""
        return self.folder / f"vmlinuz-{kind}"

    def initrd(self, kind: str) -> Path:
        """The initrd that belongs to `kernel`."""
        return self.folder / f"initrd-{kind}"


def build_guest(cache: Path, say: Say) -> Guest:
    """The guest of this working tree; what does not stand in `cache` is built.

    Needs Debian's archives for the first layer and the package index for the second, but not root:
    all files of the root file system are root's. Raises SlipstreamError where a tool fails.
    """
    cache.mkdir(parents=True, exist_ok=True)
    base = _layer(cache, "base", (PACKAGES, TRIMMED, *KERNEL_PACKAGES.values()), _build_base, say)
    needs = _requirements()
    python = _layer(
        cache, "python", (base.name, *needs), lambda folder: _install_python(folder, needs), say
    )
    inputs = (base.name, python.name, *_tree_digests())
    guest = _layer(cache, "guest", inputs, lambda folder: _build_images(folder, base, python), say)
    return Guest(guest)


def _layer(
    cache: Path, name: str, inputs: Iterable[str], build: Callable[[Path], None], say: Say
) -> Path:
    """The folder of a layer; built beside its place and renamed, and older ones of its name removed."""
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    folder = cache / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    say(f"building {folder.name} (cached in {cache})")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as scratch:
        made = Path(scratch, "layer")
        made.mkdir()
        build(made)
        for old in cache.glob(f"{name}-*"):
            shutil.rmtree(old)
        made.rename(folder)
    return folder


def _build_base(folder: Path) -> None:
    """base.tar, trimmed, and the kernels with all their modules."""
    archives = Archives.of_this_machine().of_release(2)
    bootstrap(PACKAGES, archives, folder / "full.tar")
    excluded = [f"--exclude=./{path}" for path in ("dev/*", *TRIMMED.split())]
    script = 'mkdir root; tar -C root --no-same-owner -xf full.tar "$@"; tar -C root -cf base.tar .'
    run_tool(["sh", "-ec", script, "sh", *excluded], cwd=folder)
    shutil.rmtree(folder / "root")
    (folder / "full.tar").unlink()
    architecture = run_tool(["dpkg", "--print-architecture"]).strip()
    for kind, package in KERNEL_PACKAGES.items():
        unpack_kernel(archives, package.format(arch=architecture), folder / kind)


def _requirements() -> list[str]:
    """What `pip install slipstream-ota[device]` asks for."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["device"]]


def _install_python(folder: Path, needs: list[str]) -> None:
    # For the guest's Python, Debian 12's, whatever this one is.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:"]
    run_tool([*pip, "--python-version=3.11", "--target", str(folder / "packages"), *needs])


def _tree_digests() -> list[str]:
    """Everything of this repository that goes into the guest: names and digests."""
    places = ("slipstream", "delta", "installer", "server", "e2e/rootfs", "e2e/initrd")
    paths = sorted(
        path
        for place in places
        for path in (REPOSITORY / place).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    paths += [Path(__file__), Path(__file__).with_name("initrd.py")]
    return [
        f"{path.relative_to(REPOSITORY)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in paths
    ]


def _build_images(folder: Path, base: Path, python: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch = Path(name)
        (scratch / "base.tar").symlink_to(base / "base.tar")
        shutil.copytree(python / "packages", scratch / "python")
        _add_code(scratch / "python")
        _write_overlay(scratch / "overlay")
        for release in (1, 2):
            _write_release(scratch / "releases" / str(release), release)
        run_tool(["sh", "-c", BUILD, "build", sys.executable], cwd=scratch)
        for release in (1, 2):
            shutil.move(scratch / f"rootfs-{release}.squashfs", folder)
        root = scratch / "root"
        for kind in KERNELS:
            (kernel,) = (base / kind / "boot").glob("vmlinuz-*")
            shutil.copyfile(kernel, folder / f"vmlinuz-{kind}")
            (folder / f"initrd-{kind}").write_bytes(make_initrd(root, base / kind))


def _add_code(packages: Path) -> None:
    """This working tree's slipstream, with links resolved as a wheel does it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "slipstream", packages / "slipstream", ignore=ignore)


def _write_overlay(overlay: Path) -> None:
    shutil.copytree(ROOTFS, overlay)
    units = overlay / "etc/systemd/system"
    for name in MASKED.split():
        (units / name).symlink_to("/dev/null")
    shipped = REPOSITORY / "installer/dist"
    for name in ("slipstream.service", "slipstream-trial.service", "slipstream-trial.timer"):
        shutil.copyfile(shipped / name, units / name)
    (units / "sysinit.target.wants").mkdir()
    (units / "sysinit.target.wants/slipstream-trial.timer").symlink_to("../slipstream-trial.timer")
    # Shipped for a release's system.conf.d, as it stands there.
    (overlay / "usr/lib/systemd/system.conf.d").mkdir(parents=True)
    shutil.copy(shipped / "90-slipstream-trial.conf", overlay / "usr/lib/systemd/system.conf.d")
    for unit in ENABLED:
        # What `systemctl enable` would make of each [Install] section.
        for target, kind in (("multi-user.target", "wants"), ("boot-complete.target", "requires")):
            if kind == "requires" and unit != "slipstream":
                continue
            link = units / f"{target}.{kind}" / f"{unit}.service"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(f"../{unit}.service")
    # Where no distribution's unit asks for it, something must: what is ordered behind it is the proof.
    (units / "multi-user.target.wants/boot-complete.target").symlink_to("../boot-complete.target")
    # The initrd has opened dm-verity: its generator would wait for it again.
    generators = overlay / "etc/systemd/system-generators"
    generators.mkdir()
    (generators / "systemd-veritysetup-generator").symlink_to("/dev/null")
    binary = overlay / "usr/bin/slipstream"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/usr/bin/python3\nimport sys\nfrom slipstream.cli import main\nsys.exit(main())\n")  # fmt: skip
    binary.chmod(0o755)
    (overlay / "efi").mkdir()
    (overlay / "var/lib/slipstream").mkdir(parents=True)
    (overlay / "etc/machine-id").write_text("")
    (overlay / "etc/hostname").write_text("gateway\n")
    # What belongs to one device stands on the partition that stays.
    (overlay / "etc/slipstream").symlink_to("/var/lib/slipstream/etc")


def _write_release(folder: Path, release: int) -> None:
    """What differs from one release to the next: the application's data, and who it is."""
    application = folder / "usr/lib/gateway"
    application.mkdir(parents=True)
    common, changed = random.Random("gateway"), random.Random(f"gateway {release}")
    lines = []
    for number in range(DATA_LINES):
        word = common.getrandbits(128)
        if changed.random() < DATA_CHANGED:
            word = changed.getrandbits(128)
        lines.append(f"{number} {word:032x}\n")
    data = "".join(lines).encode()
    (application / "data").write_bytes(data)
    (application / "sums").write_text(f"{hashlib.sha256(data).hexdigest()}  data\n")
    (application / "release").write_text(f"{release}\n")
    about = {"product": PRODUCT, "release": str(release), "counter": release, "floor": 0, "issued": 0}  # fmt: skip
    (folder / "usr/lib/slipstream").mkdir()
    (folder / "usr/lib/slipstream/release.json").write_text(json.dumps(about) + "\n")
