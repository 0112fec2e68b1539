"""The device's TOML file, parsed to frozen values.

The only file of the installer that reads settings. Unknown keys are refused: a misspelt
one would otherwise be a safety setting that is silently not there. Every error names
file, line and key. The settings are documented in docs/device.md.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import HEALTH_TIMEOUT_S_MAX, MIB, NAME_CHARS_MAX

CONFIG_BYTES_MAX = MIB
SLOTS_MIN = 2
DEFAULT_MEMORY_BYTES = 96 * MIB
DEFAULT_RELEASE_FILE = Path("/usr/lib/slipstream/release.json")
_SIZES = {"": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
# udev's links that follow what a partition is called, or what is in it
_MOVING_LINKS = tuple(
    f"/dev/disk/{by}/" for by in ("by-partlabel", "by-partuuid", "by-label", "by-uuid")
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class Verity(StrEnum):
    """Where the device puts the hash tree that it computes: behind the image, or in the partition
    that the slot names beside it (`tree_name`)."""

    NONE = "none"
    APPEND = "append"
    PARTITION = "partition"


class IdentityMode(StrEnum):
    """By what partitions are found at boot: nothing that Slipstream changes, or GPT names."""

    NONE = "none"
    GPT = "gpt"


class Counting(StrEnum):
    """Whether boot counting must have been seen to work before an unattended update."""

    PROVED = "proved"
    TRUSTED = "trusted"


_TREE_SUFFIX = "-verity"


def tree_name(image: str) -> str:
    """The name, in a slot, of the partition that holds an image's hash tree."""
    return image + _TREE_SUFFIX


@dataclass(frozen=True, slots=True)
class PartitionPlace:
    """A block device, or `size` bytes from `offset` on of a regular file."""

    path: Path
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True, slots=True)
class SlotConfig:
    """One slot: its letter, and the place of each partition image."""

    name: str
    partitions: Mapping[str, PartitionPlace]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where updates come from. Without a token file it is a static repository, never polled."""

    url: str
    root: Path
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class BootConfig:
    """The boot loader, and how to reboot."""

    adapter: str
    esp: Path
    tries: int
    cmdline: Path
    entry: Path
    counting: Counting
    esp_device: Path | None
    reboot: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A command that must exit 0 within `timeout_s` seconds for a release to be confirmed."""

    name: str
    command: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the device's file says. Paths are absolute."""

    path: Path
    device_id: str
    product: str
    hardware: str
    channel: str
    state: Path
    server: ServerConfig
    slots: Mapping[str, SlotConfig]
    boot: BootConfig
    health: tuple[HealthCheck, ...]
    release_file: Path
    verity: Verity
    identity: IdentityMode
    memory_bytes: int


def load_config(path: Path) -> Config:
    """The configuration at `path`. Raises UsageError that names file, line and key."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "the device configuration cannot be read", where=path, got=error.strerror
        ) from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise UsageError(
            "the device configuration is too large",
            where=path,
            expected=f"at most {CONFIG_BYTES_MAX} bytes",
            got=len(raw),
        )
    try:
        text = raw.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError("not UTF-8", where=f"{path}:{line}") from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        where = f"{path}:{found[1]}" if found else str(path)
        raise UsageError(f"not TOML: {error}", where=where) from error
    return _parse(path.absolute(), text, document)


# Checked first: a misspelt key would otherwise be reported as the required one that is missing.
_SECTION_KEYS = {
    "device": ("id", "product", "hardware", "channel", "state"),
    "server": ("url", "root", "token_file", "ca_file"),
    "boot": ("adapter", "esp", "tries", "cmdline", "entry", "counting", "esp_device", "reboot"),
    "health": ("name", "command", "timeout_s"),
    "release": ("file",),
    "install": ("verity", "identity", "memory"),
}
_KEYS = (*_SECTION_KEYS, "slots")


def _check_keys(section: "_Section", known: tuple[str, ...]) -> None:
    for key in section.entries():
        if key not in known:
            section.refuse(key, known)


def _parse(path: Path, text: str, document: dict[str, Any]) -> Config:
    root = _Section(path, text, "", document)
    _check_keys(root, _KEYS)
    for name, keys in _SECTION_KEYS.items():
        for section in root.tables(name):
            _check_keys(section, keys)
    device = root.section("device")
    server = root.section("server")
    boot = root.section("boot")
    install = root.section("install", optional=True)
    release = root.section("release", optional=True)
    config = Config(
        path=path,
        device_id=device.name("id"),
        product=device.name("product"),
        hardware=device.name("hardware"),
        channel=device.name("channel", "stable"),
        state=device.path("state", "/var/lib/slipstream"),
        server=ServerConfig(
            url=server.url("url"),
            root=server.path("root"),
            token_file=server.path_or_none("token_file"),
            ca_file=server.path_or_none("ca_file"),
        ),
        slots=_slots(root.section("slots")),
        boot=BootConfig(
            adapter=boot.one_of("adapter", ("systemd-boot",), "systemd-boot"),
            esp=boot.path("esp", "/efi"),
            tries=boot.integer("tries", 3, 1, 9),
            cmdline=boot.path("cmdline", "/proc/cmdline"),
            entry=boot.path(
                "entry",
                "/sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
            ),
            counting=Counting(
                boot.one_of("counting", tuple(Counting), Counting.PROVED),
            ),
            esp_device=boot.path_or_none("esp_device"),
            reboot=boot.words("reboot", ("systemctl", "reboot")),
        ),
        health=tuple(_health(section) for section in root.sections("health")),
        release_file=release.path("file", str(DEFAULT_RELEASE_FILE)),
        verity=Verity(install.one_of("verity", tuple(Verity), Verity.NONE)),
        identity=IdentityMode(install.one_of("identity", tuple(IdentityMode), IdentityMode.NONE)),
        memory_bytes=install.size("memory", DEFAULT_MEMORY_BYTES),
    )
    for section in (device, server, boot, install, release, root):
        section.finish()
    _check_trees(root.section("slots"), config)
    _check_names(root.section("slots"), config)
    return config


def _slots(section: "_Section") -> dict[str, SlotConfig]:
    slots: dict[str, SlotConfig] = {}
    for name in section.entries():
        if not re.fullmatch(r"[a-z0-9]", name):
            section.fail(name, "not a slot name", "one lower-case letter or digit", repr(name))
        slot = section.section(name)
        places = {image: _place(slot, image) for image in slot.entries()}
        slot.finish()
        slots[name] = SlotConfig(name, places)
    if len(slots) < SLOTS_MIN:
        section.fail(None, "too few slots", f"at least {SLOTS_MIN}", str(len(slots)))
    names = {frozenset(slot.partitions) for slot in slots.values()}
    if len(names) != 1:
        section.fail(None, "the slots differ in their partitions", "the same names", None)
    section.finish()
    return slots


def _check_trees(slots: "_Section", config: Config) -> None:
    """With verity = "partition" every image's partition has one for its hash tree beside it."""
    if config.verity is not Verity.PARTITION:
        return
    for slot in config.slots.values():
        images = [name for name in slot.partitions if not name.endswith(_TREE_SUFFIX)]
        section = slots.section(slot.name)
        for name in slot.partitions:
            if name.endswith(_TREE_SUFFIX) and name.removesuffix(_TREE_SUFFIX) not in images:
                section.fail(name, "the hash tree of nothing", "the image's partition too", None)
        for name in images:
            if tree_name(name) not in slot.partitions:
                what = f'no {tree_name(name)}, which [install] verity = "partition" needs'
                section.fail(name, what, f'{tree_name(name)} = "/dev/..."', None)


def _check_names(slots: "_Section", config: Config) -> None:
    """With identity = "gpt" labels and UUIDs change: links that are named by them would go."""
    if config.identity is not IdentityMode.GPT:
        return
    for slot in config.slots.values():
        for image, place in slot.partitions.items():
            if str(place.path).startswith(_MOVING_LINKS):
                slots.section(slot.name).fail(
                    image,
                    'a path by label or UUID, which [install] identity = "gpt" changes',
                    "/dev/disk/by-path/...-partN, /dev/disk/by-id/...-partN, or the device itself",
                    str(place.path),
                )


def _place(slot: "_Section", image: str) -> PartitionPlace:
    value = slot.peek(image)
    if isinstance(value, str):
        return PartitionPlace(slot.path(image))
    table = slot.section(image)
    _check_keys(table, ("path", "offset", "size"))
    place = PartitionPlace(
        table.path("path"),
        table.size("offset", 0),
        table.size("size", None),
    )
    if place.offset % 4096 or (place.size or 0) % 4096:
        table.fail("offset", "not aligned", "multiples of 4096", f"{place.offset}, {place.size}")
    table.finish()
    return place


def _health(section: "_Section") -> HealthCheck:
    check = HealthCheck(
        name=section.name("name"),
        command=section.words("command", None),
        timeout_s=float(section.integer("timeout_s", 60, 1, int(HEALTH_TIMEOUT_S_MAX))),
    )
    section.finish()
    return check


class _Section:
    """A table of the file that knows where it stands, for errors, and what was asked of it."""

    def __init__(
        self, path: Path, text: str, name: str, table: dict[str, Any], row: int = 0
    ) -> None:
        self._path = path
        self._text = text
        self._name = name
        self._table = table
        self._row = row
        self._asked: set[str] = set()

    def fail(self, key: str | None, what: str, expected: str | None, got: str | None) -> NoReturn:
        """Raise UsageError at `key` of this section."""
        line = _line_of(self._text, self._name, self._row, key)
        full = ".".join(part for part in (self._name, key) if part)
        raise UsageError(
            f"{full}: {what}", where=f"{self._path}:{line}", expected=expected, got=got
        )

    def entries(self) -> tuple[str, ...]:
        return tuple(self._table)

    def finish(self) -> None:
        """Refuse keys that nothing asked for."""
        for key in self._table:
            if key not in self._asked:
                self.refuse(key, self._asked)

    def refuse(self, key: str, known: Iterable[str]) -> NoReturn:
        """Raise UsageError for a key that is not known; with the near name, if there is one."""
        names = sorted(known)
        near = difflib.get_close_matches(key, names, 1)
        what = f"unknown key, did you mean {near[0]}?" if near else "unknown key"
        self.fail(key, what, f"one of {', '.join(names)}", None)

    def tables(self, key: str) -> list["_Section"]:
        """The table or the tables of that name; none where it is missing or not a table."""
        value = self._table.get(key)
        if isinstance(value, dict):
            return [_Section(self._path, self._text, key, value)]
        rows = value if isinstance(value, list) else []
        return [
            _Section(self._path, self._text, key, row, n)
            for n, row in enumerate(rows)
            if isinstance(row, dict)
        ]

    def peek(self, key: str) -> Any:
        self._asked.add(key)
        return self._table.get(key)

    def section(self, key: str, *, optional: bool = False) -> "_Section":
        value = self.peek(key)
        if value is None and not optional:
            self.fail(key, "missing", f"a section [{key}]", None)
        value = {} if value is None else value
        if not isinstance(value, dict):
            self.fail(key, "wrong type", "a table", repr(value))
        name = f"{self._name}.{key}" if self._name else key
        return _Section(self._path, self._text, name, value)

    def sections(self, key: str) -> list["_Section"]:
        value = self.peek(key)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            self.fail(key, "wrong type", f"tables [[{key}]]", repr(value))
        return [_Section(self._path, self._text, key, row, n) for n, row in enumerate(value)]

    def text(self, key: str, default: str | None) -> str:
        value = self.peek(key)
        if value is None:
            if default is None:
                self.fail(key, "missing", "a string", None)
            return default
        if not isinstance(value, str) or not value:
            self.fail(key, "wrong type", "a string that is not empty", repr(value))
        return str(value)

    def name(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if not _NAME.fullmatch(value) or len(value) > NAME_CHARS_MAX:
            self.fail(key, "not a name", "letters, digits and . _ + - (at most 64)", repr(value))
        return value

    def path(self, key: str, default: str | None = None) -> Path:
        return self._path.parent / self.text(key, default)

    def path_or_none(self, key: str) -> Path | None:
        return None if self.peek(key) is None else self.path(key)

    def url(self, key: str) -> str:
        value = self.text(key, None)
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            self.fail(key, "not an address", "http:// or https://HOST[:PORT][/PATH]", repr(value))
        return value.rstrip("/")

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            self.fail(key, "not a choice", " or ".join(choices), repr(value))
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.peek(key)
        value = default if value is None else value
        if type(value) is not int or not low <= value <= high:
            self.fail(key, "not a number in range", f"{low} to {high}", repr(value))
        return int(value)

    def words(self, key: str, default: tuple[str, ...] | None) -> tuple[str, ...]:
        value = self.peek(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, list) or not value or not all(isinstance(w, str) for w in value):
            self.fail(key, "not a command", "a list of strings", repr(value))
        return tuple(value)

    def size(self, key: str, default: int | None) -> Any:
        value = self.peek(key)
        if value is None:
            return default
        if type(value) is int and value >= 0:
            return value
        found = (
            re.fullmatch(r"(\d{1,12}) ?(KiB|MiB|GiB|)", value) if isinstance(value, str) else None
        )
        if found is None:
            self.fail(key, "not a size", 'bytes, or a text like "96MiB"', repr(value))
        return int(found[1]) * _SIZES[found[2]]


def _line_of(text: str, section: str, row: int, key: str | None) -> int:
    """Line (from 1) of `key` in the `row`-th table of that name. For messages only.

    Where the key is missing: the line of the table, or of the key that holds it.
    """
    inside = not section
    line_of_section = None if section else 1
    rows = 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)
        if header:
            inside = header[1] == section and rows == row
            rows += header[1] == section
            if inside:
                line_of_section = number
            elif key is not None and header[1] == (f"{section}.{key}" if section else key):
                return number
        elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    if line_of_section is not None:
        return line_of_section
    parent, _, last = section.rpartition(".")
    return _line_of(text, parent, 0, last)
