"""Two small root trees, source and target, with something of everything that a release has."""

import gzip
import random
import shutil
from pathlib import Path

CHANGED = "etc/gateway.conf"


def make_trees(folder: Path) -> tuple[Path, Path]:
    """The target has a changed line in many files, a new file, a removed one and a moved one."""
    source, target = folder / "source", folder / "target"
    _make(source, "1.0")
    _make(target, "2.0")
    (target / "usr/share/new").write_text("new in 2.0\n")
    (target / "usr/share/gone").unlink()
    shutil.move(target / "usr/share/place", target / "usr/share/moved")
    return source, target


def _make(root: Path, version: str) -> None:
    rng = random.Random(7)
    for name in ("boot", "etc", "usr/bin", "usr/share/doc"):
        (root / name).mkdir(parents=True)
    (root / "etc/os-release").write_text(f'ID=gateway\nVERSION_ID="{version}"\n')
    (root / CHANGED).write_text(f"release = {version}\n")
    for n in range(8):
        words = [f"{rng.randrange(1 << 30):x}" for _ in range(12_000)]
        words[6_000] = version
        (root / f"usr/bin/program-{n}").write_text("\n".join(words))
    for name in ("gone", "place"):
        (root / "usr/share" / name).write_bytes(rng.randbytes(30_000))
    documents = f"changes of {version}\n" + "\n".join(str(n * n) for n in range(9_000))
    packed = gzip.compress(documents.encode(), mtime=0)
    (root / "usr/share/doc/changelog.gz").write_bytes(packed)
    (root / "boot/initrd.img-1").write_bytes(packed)
    (root / "boot/vmlinuz-1").write_bytes(rng.randbytes(200_000) + version.encode())
    (root / "usr/bin/link").symlink_to("program-0")
    (root / "usr/bin/twin").hardlink_to(root / "usr/bin/program-1")
