"""Debian's archives, as this machine's own apt knows them: root trees and kernels come from here."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from slipstream.delta.errors import SlipstreamError
from slipstream.demo.tools import run_tool

SUITE = "bookworm"
SUITES = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Archives:
    """Source lines of Debian 12: its main archive, and those of its updates and security fixes."""

    main: str
    later: tuple[str, ...]

    def of_release(self, counter: int) -> tuple[str, ...]:
        """Where release 1 or 2 comes from: the main archive alone, or all of them."""
        return (self.main,) if counter == 1 else (self.main, *self.later)

    @classmethod
    def of_this_machine(cls) -> Self:
        """Those that apt is set up for. Raises SlipstreamError if one of the three is missing."""
        rows = run_tool(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                "Created-By: Packages",
            ]
        )
        found = {}
        for row in rows.split("\n"):
            uri, _, rest = row.partition(" ")
            suite, _, component = rest.partition(" ")
            if component == "main" and suite in SUITES:
                found[suite] = f"deb {uri} {suite} main"
        if len(found) != len(SUITES):
            raise SlipstreamError(
                "this machine's apt does not know Debian 12's archives",
                where="apt-get indextargets",
                expected=", ".join(SUITES),
                got=", ".join(sorted(found)) or "none",
                hint="Run apt-get update, or use make demo SOURCE=a.img TARGET=b.img on a Debian 12 machine",
            )
        return cls(found[SUITE], tuple(found[suite] for suite in SUITES[1:]))


def bootstrap(packages: str, archives: tuple[str, ...], tar: Path) -> None:
    """A tar archive of a root tree: these packages (separated by commas), unpacked and configured."""
    run_tool(
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


def fetch_kernel(archives: tuple[str, ...], output: Path) -> None:
    """vmlinuz of the cloud kernel package that these archives would install today."""
    package = f"linux-image-cloud-{run_tool(['dpkg', '--print-architecture']).strip()}"
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        unpack_kernel(archives, package, Path(folder, "unpacked"))
        next(Path(folder).glob("unpacked/boot/vmlinuz-*")).replace(output)


def unpack_kernel(archives: tuple[str, ...], package: str, output: Path) -> None:
    """The files of the kernel that a package such as linux-image-amd64 depends on, in `output`."""
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        folder = Path(name)
        for part in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / part).mkdir(parents=True)
        lines = [line.replace("deb ", f"deb [signed-by={KEYRING}] ", 1) for line in archives]
        (folder / "sources.list").write_text("\n".join(lines) + "\n")
        # Lists of its own: what this machine has installed or pinned does not matter.
        options = [
            f"Dir::State::lists={folder}/lists",
            f"Dir::Cache={folder}/cache",
            f"Dir::Etc::sourcelist={folder}/sources.list",
            f"Dir::Etc::sourceparts={folder}/parts",
            "APT::Sandbox::User=root",
        ]
        flags = [word for option in options for word in ("-o", option)]
        run_tool(["apt-get", *flags, "-qq", "update"])
        depends = run_tool(["apt-cache", *flags, "depends", package])
        real = next(
            line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line
        )
        run_tool(["apt-get", *flags, "-qq", "download", real], cwd=folder)
        run_tool(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), "unpacked"], cwd=folder)
        (folder / "unpacked").rename(output)
