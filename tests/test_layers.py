"""The walls of the house: who may import whom, what the core may touch, what a device loads."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("delta", "installer", "server")
FORBIDDEN = {
    "delta": ("slipstream.installer", "slipstream.server", "slipstream.cli", "slipstream.demo"),
    "installer": ("slipstream.server", "slipstream.cli", "slipstream.demo"),
    "server": ("slipstream.installer", "slipstream.cli", "slipstream.demo"),
}
# What pure code may not import (style.md, 3), and the exceptions (docs/architecture.md): durable
# files (ADR 2), and GNU gzip, which exists as a process only (ADR 10).
IMPURE = {"os", "socket", "asyncio", "time", "random", "logging", "subprocess", "pathlib", "shutil"}
TOUCHES_SYSTEM = {"durable.py", "gnu_gzip.py"}
BUILD_ONLY = {
    "numpy",
    "numba",
    "llvmlite",
    "sqlalchemy",
    "alembic",
    "aiosqlite",
    "jinja2",
    "prometheus_client",
    "detools",
    "lark",
}

INSTALL_ONLY = {
    "rich",
    "tuf",
    "securesystemslib",
    "cryptography",
    "construct",
    "zstandard",
    "bsdiff4",
}
NOT_WAITING = ("slipstream.server", "slipstream.delta.decode", "slipstream.installer.pipe")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer they cross"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) > 1, f"no files below {package}: the test looks in the wrong place"
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    crossings = [
        (path.name, name)
        for path in files_of(package)
        for name in imports_of(path)
        if name.startswith(FORBIDDEN[package])
    ]

    assert crossings == []


@pytest.mark.parametrize("package", [*PACKAGES, "slipstream/cli", "tests"])
def test_packages_are_imported_by_their_full_name(package: str) -> None:
    short = [
        (path.name, name)
        for path in files_of(package)
        for name in imports_of(path)
        if name.split(".")[0] in PACKAGES
    ]

    assert short == [], "import slipstream.delta, not delta: pypa/installer owns the short name"


def test_core_is_pure() -> None:
    impure = [
        (path.name, name)
        for path in files_of("delta")
        if path.name not in TOUCHES_SYSTEM
        for name in imports_of(path)
        if name.split(".")[0] in IMPURE
    ]

    assert impure == []


def test_rollouts_are_decided_without_the_world() -> None:
    """The policy engine takes values and gives values; chance is handed in as a generator."""
    forbidden = {*IMPURE, "aiohttp", "sqlalchemy"}
    impure = []
    for path in sorted((ROOT / "server/rollout").glob("*.py")):
        names = set(imports_of(path))
        if "random.Random" in names:  # the type alone
            names -= {"random", "random.Random"}
        impure += [(path.name, name) for name in names if name.split(".")[0] in forbidden]

    assert impure == []


def test_device_loads_neither_numpy_nor_server() -> None:
    modules = [
        "slipstream." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files_of("installer")
        if path.name != "__init__.py"
    ]
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", program, "slipstream.cli.device", *modules],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert "slipstream.delta.errors" in loaded
    assert BUILD_ONLY.intersection(name.split(".")[0] for name in loaded) == set()
    assert [name for name in loaded if name.startswith("slipstream.server")] == []


def test_an_agent_that_waits_loads_little() -> None:
    """Trust, codecs and decoders are loaded when there is something to install: 14 MiB resident."""
    program = (
        "import sys\n"
        "import slipstream.installer.agent\n"
        "from slipstream.cli import main\n"
        "try: main(['device', 'run', '--help'])\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "slipstream.installer.trial" in loaded
    tops = {name.split(".")[0] for name in loaded}
    assert tops & (BUILD_ONLY | INSTALL_ONLY) == set()
    assert [name for name in loaded if name.startswith(NOT_WAITING)] == []


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = glob("slipstream/**/__init__.py", root_dir=ROOT, recursive=True)

    packages = {".".join(Path(name).parent.parts) for name in found}

    assert "slipstream.delta" in packages, "the search did not follow the links"
    assert set(settings["tool"]["setuptools"]["packages"]) == packages
