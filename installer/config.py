"""The device's TOML file, parsed to frozen values.

The only file of the installer that reads settings. Unknown keys are refused: a misspelt
one would otherwise be a safety setting that is silently not there. Every error names
file, line and key (section.py). The settings are documented in docs/device.md.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import HEALTH_TIMEOUT_S_MAX, MIB, WINDOWS_MAX
from slipstream.delta.maintenance import LENGTH_MINUTES_MAX, Schedule, Window
from slipstream.installer.holds import Policy, Step
from slipstream.installer.section import Section

CONFIG_BYTES_MAX = MIB
SLOTS_MIN = 2
DEFAULT_MEMORY_BYTES = 96 * MIB
DEFAULT_INHIBIT_FILES = ("/run/slipstream/inhibit",)
SPREAD_S_MAX = 86_400  # a day: a fleet's weekly window is hardly longer
DEFAULT_RELEASE_FILE = Path("/usr/lib/slipstream/release.json")


# udev's links that follow what a partition is called, or what is in it
_MOVING_LINKS = tuple(
    f"/dev/disk/{by}/" for by in ("by-partlabel", "by-partuuid", "by-label", "by-uuid")
)


class Verity(StrEnum):
    """Where the device puts the hash tree that it computes: behind the image, or in the partition
    that the slot names beside it (`tree_name`). With `none` a release whose command line names a root
    hash brings the tree itself; with `initrd` its initrd needs none."""

    NONE = "none"
    APPEND = "append"
    PARTITION = "partition"
    INITRD = "initrd"


class IdentityMode(StrEnum):
    """By what partitions are found at boot: nothing that Slipstream changes, or GPT names."""

    NONE = "none"
    GPT = "gpt"


class Counting(StrEnum):
    """Whether boot counting must have been seen to work before an unattended update."""

    PROVED = "proved"
    TRUSTED = "trusted"


_TREE_SUFFIX = "-verity"
_WHERE_TO_GET_ONE = (
    "Copy installer/dist/device.toml there and fill it in, or name another file with --config"
)


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
class AgentConfig:
    """When `device run` may install and reboot.

    `allow_command`: exit 0 within `allow_timeout_s` allows; empty: nothing is asked.
    """

    policy: Policy
    inhibit_files: tuple[Path, ...]
    allow_command: tuple[str, ...]
    allow_timeout_s: float
    wake: bool


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
    agent: AgentConfig
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
            "the device configuration cannot be read",
            where=path,
            got=error.strerror,
            hint=_WHERE_TO_GET_ONE if isinstance(error, FileNotFoundError) else None,
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
    "agent": (
        "time_zone",
        "window",
        "window_holds",
        "inhibit_files",
        "inhibit_holds",
        "allow_command",
        "allow_timeout_s",
        "reboot_spread_s",
        "wake",
    ),
    "health": ("name", "command", "timeout_s"),
    "release": ("file",),
    "install": ("verity", "identity", "memory"),
}
_KEYS = (*_SECTION_KEYS, "slots")


def _check_keys(section: Section, known: tuple[str, ...]) -> None:
    for key in section.entries():
        if key not in known:
            section.refuse(key, known)


def _parse(path: Path, text: str, document: dict[str, Any]) -> Config:
    root = Section(path, text, "", document)
    _check_keys(root, _KEYS)
    for name, keys in _SECTION_KEYS.items():
        for section in root.tables(name):
            _check_keys(section, keys)
    device = root.section("device")
    server = root.section("server")
    boot = root.section("boot")
    agent = root.section("agent", optional=True)
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
        agent=_agent(agent),
        release_file=release.path("file", str(DEFAULT_RELEASE_FILE)),
        verity=Verity(install.one_of("verity", tuple(Verity), Verity.NONE)),
        identity=IdentityMode(install.one_of("identity", tuple(IdentityMode), IdentityMode.NONE)),
        memory_bytes=install.size("memory", DEFAULT_MEMORY_BYTES),
    )
    for section in (device, server, boot, agent, install, release, root):
        section.finish()
    if config.agent.wake and config.server.token_file is None:
        agent.fail("wake", "a static repository wakes nobody", "[server] token_file", None)
    _check_trees(root.section("slots"), config)
    _check_names(root.section("slots"), config)
    return config


def _slots(section: Section) -> dict[str, SlotConfig]:
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


def _check_trees(slots: Section, config: Config) -> None:
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


def _check_names(slots: Section, config: Config) -> None:
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


def _place(slot: Section, image: str) -> PartitionPlace:
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


def _health(section: Section) -> HealthCheck:
    check = HealthCheck(
        name=section.name("name"),
        command=section.words("command", None),
        timeout_s=float(section.integer("timeout_s", 60, 1, int(HEALTH_TIMEOUT_S_MAX))),
    )
    section.finish()
    return check


def _agent(section: Section) -> AgentConfig:
    zone_name, zone = section.time_zone("time_zone", "UTC")
    windows = tuple(_window(one) for one in section.sections("window"))
    if len(windows) > WINDOWS_MAX:
        section.fail("window", "too many windows", f"at most {WINDOWS_MAX}", str(len(windows)))
    steps = tuple(Step)
    return AgentConfig(
        policy=Policy(
            schedule=Schedule(windows, zone, zone_name),
            window_holds=Step(section.one_of("window_holds", steps, Step.REBOOT)),
            inhibit_holds=Step(section.one_of("inhibit_holds", steps, Step.REBOOT)),
            reboot_spread_s=float(section.integer("reboot_spread_s", 0, 0, SPREAD_S_MAX)),
        ),
        inhibit_files=section.paths("inhibit_files", DEFAULT_INHIBIT_FILES),
        allow_command=section.words("allow_command", ()),
        allow_timeout_s=float(section.integer("allow_timeout_s", 30, 1, int(HEALTH_TIMEOUT_S_MAX))),
        wake=section.flag("wake", default=False),
    )


def _window(section: Section) -> Window:
    _check_keys(section, ("days", "start_time", "length_minutes"))
    window = Window(
        days=section.days("days"),
        start=section.time_of_day("start_time"),
        length_minutes=section.integer("length_minutes", None, 1, LENGTH_MINUTES_MAX),
    )
    section.finish()
    return window
