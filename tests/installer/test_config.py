"""The device's configuration: what it gives, and where its errors point."""

import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import MIB
from slipstream.installer import section
from slipstream.installer.config import PartitionPlace, Verity, load_config
from slipstream.installer.holds import Policy, Step

FULL = """\
[device]
id = "gw-0001"
product = "gateway"
hardware = "x86-64"
channel = "beta"
state = "/var/lib/updates"

[server]
url = "https://updates.example.com/repo/"
root = "root.json"
token_file = "token"
ca_file = "ca.pem"

[slots.a]
rootfs = "/dev/disk/by-partlabel/a"
[slots.b]
rootfs = { path = "disk.img", offset = 1048576, size = "16MiB" }

[boot]
adapter = "systemd-boot"
esp = "esp"
tries = 2
cmdline = "cmdline"
entry = "entry"
reboot = ["reboot", "now"]

[[health]]
name = "web"
command = ["curl", "-f", "localhost"]
timeout_s = 10

[[health]]
name = "disk"
command = ["true"]

[release]
file = "release.json"

[install]
verity = "append"
memory = "128MiB"

[agent]
time_zone = "Europe/Berlin"
window_holds = "install"
inhibit_files = ["inhibit.d"]
inhibit_holds = "install"
allow_command = ["may-update", "--quiet"]
allow_timeout_s = 10
reboot_spread_s = 600

[[agent.window]]
days = ["Sat", "sunday"]
start_time = "23:30"
length_minutes = 60

[[agent.window]]
days = ["Wed"]
start_time = "01:00"
length_minutes = 30
"""


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "device.md").read_text()


def load(folder: Path, text: str) -> object:
    path = folder / "device.toml"
    path.write_text(text)
    return load_config(path)


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(FULL)
    config = load_config(tmp_path / "device.toml")

    assert (config.device_id, config.product, config.channel) == ("gw-0001", "gateway", "beta")
    assert config.state == Path("/var/lib/updates")
    assert config.server.url == "https://updates.example.com/repo"
    assert config.server.root == tmp_path / "root.json"
    assert config.server.token_file == tmp_path / "token"
    assert config.slots["a"].partitions["rootfs"] == PartitionPlace(
        Path("/dev/disk/by-partlabel/a")
    )
    assert config.slots["b"].partitions["rootfs"] == PartitionPlace(
        tmp_path / "disk.img", MIB, 16 * MIB
    )
    assert (config.boot.esp, config.boot.tries) == (tmp_path / "esp", 2)
    assert config.boot.reboot == ("reboot", "now")
    assert [(one.name, one.timeout_s) for one in config.health] == [("web", 10), ("disk", 60)]
    assert config.release_file == tmp_path / "release.json"
    assert (config.verity, config.memory_bytes) == (Verity.APPEND, 128 * MIB)
    agent, policy = config.agent, config.agent.policy
    assert (policy.window_holds, policy.inhibit_holds) == (Step.INSTALL, Step.INSTALL)
    assert policy.reboot_spread_s == 600
    assert policy.schedule.zone_name == "Europe/Berlin"
    assert [str(one) for one in policy.schedule.windows] == [
        "Sat,Sun 23:30-00:30",
        "Wed 01:00-01:30",
    ]
    assert agent.inhibit_files == (tmp_path / "inhibit.d",)
    assert (agent.allow_command, agent.allow_timeout_s) == (("may-update", "--quiet"), 10)


def test_what_may_be_left_out_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(
        '[device]\nid="d"\nproduct="p"\nhardware="h"\n'
        '[server]\nurl="http://h"\nroot="r"\n'
        '[slots]\na={rootfs="/dev/a"}\nb={rootfs="/dev/b"}\n[boot]\n'
    )
    config = load_config(tmp_path / "device.toml")

    assert config.channel == "stable"
    assert config.state == Path("/var/lib/slipstream")
    assert config.server.token_file is None
    assert (config.boot.adapter, config.boot.esp) == ("systemd-boot", Path("/efi"))
    assert config.boot.cmdline == Path("/proc/cmdline")
    assert config.boot.reboot == ("systemctl", "reboot")
    assert config.health == ()
    assert (config.verity, config.memory_bytes) == (Verity.NONE, 96 * MIB)
    assert config.agent.policy == Policy()
    assert config.agent.inhibit_files == (Path("/run/slipstream/inhibit"),)
    assert config.agent.allow_command == ()


@pytest.mark.parametrize("zone", ["UTC", "localtime", "America/Argentina/Buenos_Aires"])
def test_time_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setattr(section, "LOCALTIME", Path("/usr/share/zoneinfo/Asia/Tokyo"))
    (tmp_path / "device.toml").write_text(FULL.replace("Europe/Berlin", zone))
    schedule = load_config(tmp_path / "device.toml").agent.policy.schedule
    moment = datetime(2026, 1, 1, tzinfo=schedule.zone)
    assert schedule.zone_name == zone
    assert moment.utcoffset() == timedelta(
        hours={"UTC": 0, "localtime": 9, "America/Argentina/Buenos_Aires": -3}[zone]
    )


@pytest.mark.parametrize(
    "old, new, line, words",
    [
        ('id = "gw-0001"', "", 1, "device.id: missing"),
        ('id = "gw-0001"', "id = 5", 2, "device.id: wrong type"),
        ('id = "gw-0001"', 'id = ""', 2, "device.id"),
        ('product = "gateway"', 'product = "a/b"', 3, "device.product: not a name"),
        ('channel = "beta"', 'chanel = "beta"', 5, "device.chanel: unknown key"),
        ("https://updates.example.com/repo/", "ftp://host/", 9, "server.url: not an address"),
        ("https://updates.example.com/repo/", "http://u:p@host/", 9, "server.url"),
        ("[slots.b]\n", "[slots.main]\n", 16, "slots.main: not a slot name"),
        ("offset = 1048576", "offset = 5", 17, "slots.b.rootfs.offset: not aligned"),
        ("offset = 1048576", "ofset = 5", 17, "slots.b.rootfs.ofset: unknown key"),
        ('size = "16MiB"', 'size = "16MB"', 17, "slots.b.rootfs.size: not a size"),
        ('rootfs = "/dev/disk', 'usr = "/dev/disk', 1, "the slots differ"),
        ('"systemd-boot"', '"grub"', 20, "boot.adapter: not a choice"),
        ("tries = 2", "tries = 0", 22, "boot.tries: not a number in range"),
        ("tries = 2", "tries = true", 22, "boot.tries"),
        ('["reboot", "now"]', '"reboot now"', 25, "boot.reboot: not a command"),
        ("timeout_s = 10", "timeout_s = 9999999", 30, "health.timeout_s"),
        ('command = ["true"]', "", 32, "health.command: not a command"),
        ('name = "disk"', 'nme = "disk"', 33, "health.nme: unknown key, did you mean name?"),
        (
            'product = "gateway"',
            'prodct = "gateway"',
            3,
            "device.prodct: unknown key, did you mean product?",
        ),
        ('url = "https', 'uri = "https', 9, "server.uri: unknown key, did you mean url?"),
        ("[server]", "[sever]", 8, "sever: unknown key, did you mean server?"),
        (
            'path = "disk.img"',
            'pth = "disk.img"',
            17,
            "slots.b.rootfs.pth: unknown key, did you mean path?",
        ),
        ('verity = "append"', 'verity = "yes"', 40, "install.verity"),
        ('memory = "128MiB"', "memory = -1", 41, "install.memory"),
        ("Europe/Berlin", "Europe/Bonn", 44, "agent.time_zone: no such time zone"),
        ("Europe/Berlin", "../../etc/passwd", 44, "agent.time_zone: no such time zone"),
        ('window_holds = "install"', 'window_holds = "both"', 45, "agent.window_holds: not a choi"),
        ('["inhibit.d"]', '"inhibit.d"', 46, "agent.inhibit_files: wrong type"),
        ('["may-update", "--quiet"]', "[]", 48, "agent.allow_command: not a command"),
        ("reboot_spread_s = 600", "reboot_spread_s = -1", 50, "agent.reboot_spread_s: not a num"),
        ('["Sat", "sunday"]', '["Sat", "Sonntag"]', 53, "agent.window.days: not weekdays"),
        ('["Sat", "sunday"]', "[]", 53, "agent.window.days: not weekdays"),
        ('"23:30"', '"24:00"', 54, "agent.window.start_time: not a time of day"),
        ('"01:00"', '"1:00"', 59, "agent.window.start_time: not a time of day"),
        ("length_minutes = 30", "length_minutes = 0", 60, "agent.window.length_minutes: not a"),
        ("length_minutes = 30", "lenght_minutes = 30", 60, "did you mean length_minutes?"),
        ('days = ["Wed"]', "", 57, "agent.window.days: not weekdays"),
        ("[boot]", "[boot", 19, "not TOML"),
        ("[install]", "[instal]", 39, "instal: unknown key"),
    ],
)
def test_errors_name_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in FULL

    with pytest.raises(UsageError) as caught:
        load(tmp_path, FULL.replace(old, new, 1))

    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'device.toml'}:{line}: ")


def test_who_can_be_woken(tmp_path: Path) -> None:
    assert not load(tmp_path, FULL).agent.wake
    text = FULL.replace("reboot_spread_s = 600", "wake = true")
    assert load(tmp_path, text).agent.wake
    for change, message in (
        (("wake = true", "wake = 1"), "agent.wake: wrong type"),
        (('token_file = "token"', ""), "agent.wake: a static repository wakes nobody"),
    ):
        with pytest.raises(UsageError, match=message):
            load(tmp_path, text.replace(*change))


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="server: missing"):
        load(tmp_path, FULL[: FULL.index("[server]")] + FULL[FULL.index("[slots.a]") :])


def test_one_slot_is_too_few(tmp_path: Path) -> None:
    start, end = FULL.index("[slots.b]"), FULL.index("[boot]")

    with pytest.raises(UsageError, match="too few slots"):
        load(tmp_path, FULL[:start] + FULL[end:])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        load_config(tmp_path / "absent.toml")
    assert caught.value.exit_code == 2
    assert "installer/dist/device.toml" in str(caught.value)
    assert "--config" in str(caught.value)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_bytes(b"[device]\nid = '\xff'\n")

    with pytest.raises(UsageError, match=r"device\.toml:2: not UTF-8"):
        load_config(tmp_path / "device.toml")


def test_every_setting_is_documented() -> None:
    """The sample above has every key there is: unknown ones are refused, and so are missing ones."""
    settings = tomllib.loads(FULL)
    settings["agent.window"] = settings["agent"]["window"]
    for name, table in settings.items():
        if name == "slots":
            continue
        rows = table if isinstance(table, list) else [table]
        for key in {key for row in rows for key in row}:
            assert f"| `{key}` |" in DOCUMENT, f"{name}.{key} is not in docs/device.md"
    for key in settings["slots"]["b"]["rootfs"]:
        assert f"`{key}`" in DOCUMENT


def test_the_documented_example_is_accepted(tmp_path: Path) -> None:
    start = DOCUMENT.index("```toml\n") + len("```toml\n")

    load(tmp_path, DOCUMENT[start : DOCUMENT.index("```", start)])


def test_the_example_that_is_shipped_loads() -> None:
    example = Path(__file__).resolve().parents[2] / "installer" / "dist" / "device.toml"

    assert load_config(example).product == "gateway"
