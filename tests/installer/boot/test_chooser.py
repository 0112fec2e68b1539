"""The simulated systemd-boot: what it lists, in which order, and how it counts."""

from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.installer.boot.chooser import boot, choose, list_entries
from slipstream.installer.boot.efivar import (
    dump_loader_string,
    parse_loader_features,
    parse_loader_string,
)
from tests.installer.boot.uki import make_uki


@pytest.fixture
def esp(tmp_path: Path) -> Path:
    (tmp_path / "EFI/Linux").mkdir(parents=True)
    (tmp_path / "loader/entries").mkdir(parents=True)
    (tmp_path / "k").write_bytes(b"kernel")
    return tmp_path


def put_uki(esp: Path, name: str, version: str = "1", **rest: str) -> None:
    (esp / "EFI/Linux" / name).write_bytes(make_uki(version, **rest))  # type: ignore[arg-type]


def put_conf(esp: Path, name: str, text: str) -> None:
    (esp / "loader/entries" / name).write_text(text)


def listed(esp: Path) -> list[str]:
    return [entry.path.name for entry in list_entries(esp)]


def test_nothing_to_start(tmp_path: Path) -> None:
    assert choose(tmp_path) is None
    assert boot(tmp_path) is None


# --- what is listed (measured on systemd-boot 252, and boot.c)


def test_dot_files_empty_files_and_other_suffixes_are_not_listed(esp: Path) -> None:
    put_uki(esp, ".0001a.efi")
    put_uki(esp, "auto-x.efi")
    put_uki(esp, "0001a.tmp")
    (esp / "EFI/Linux/empty.efi").write_bytes(b"")
    (esp / "EFI/Linux/junk.efi").write_bytes(b"MZ" + bytes(500))
    (esp / "EFI/Linux/folder.efi").mkdir()
    put_conf(esp, ".0001a.conf", "linux /k\n")
    put_conf(esp, "auto-x.conf", "linux /k\n")
    put_uki(esp, "SEEN.EFI")
    assert listed(esp) == ["SEEN.EFI"]


def test_a_truncated_uki_is_listed_chosen_and_burns_a_try(esp: Path) -> None:
    put_uki(esp, "0001a.efi", "1")
    put_uki(esp, "0002b+3-0.efi", "2")
    path = esp / "EFI/Linux/0002b+3-0.efi"
    path.write_bytes(path.read_bytes()[:-10])
    choice = boot(esp)
    assert choice is not None
    assert choice.path.name == "0002b+2-1.efi"
    assert not choice.loadable
    assert [boot(esp).path.name for _ in range(3)][-1] == "0001a.efi"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        "title no loader\n",
        "linux /missing\n",
        "linux /k\nefi /k\n",
        "efi /missing.efi\n",
        "# linux /k\n",
        "linux\n",
    ],
)
def test_type1_entries_that_are_not_listed(esp: Path, text: str) -> None:
    put_conf(esp, "x.conf", text)
    assert listed(esp) == []


def test_type1_entry(esp: Path) -> None:
    (esp / "i").write_bytes(b"initrd")
    put_conf(
        esp,
        "0007a+1-2.conf",
        "# made by hand\n\ntitle  Gateway \nsort-key gw\nversion 7-1.0\nmachine-id abc\n"
        "linux \\k\ninitrd /i\ninitrd /missing\noptions roothash=00 quiet\n options  panic=10\n",
    )
    (entry,) = list_entries(esp)
    assert entry.cmdline == "initrd=\\i initrd=\\missing roothash=00 quiet panic=10"
    assert (entry.sort_key, entry.version, entry.machine_id) == ("gw", "7-1.0", "abc")
    assert entry.tries is not None
    assert (entry.tries.left, entry.tries.done) == (1, 2)
    # Its initrd is missing: listed all the same, and it will fail to start.
    assert not entry.loadable


def test_uki_takes_name_and_order_from_os_release(esp: Path) -> None:
    put_uki(esp, "a.efi", osrel='ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n')
    put_uki(esp, "b.efi", osrel="VERSION=3\nFOO=x\n")  # no name: not listed
    put_uki(esp, "c.efi", osrel="NAME=old\n")
    first, second = list_entries(esp)
    assert (first.sort_key, first.version) == ("debian", "12")
    assert (second.sort_key, second.version) == (None, "")


# --- the order (boot.c, boot_entry_compare)


@pytest.mark.parametrize(
    "names, first",
    [
        ({"0001a.efi": "1", "0002b+3-0.efi": "2"}, "0002b+3-0.efi"),
        ({"0001a.efi": "1", "0002b+0-3.efi": "2"}, "0001a.efi"),
        ({"0009a.efi": "9", "0010b.efi": "10"}, "0010b.efi"),
        ({"0009a.efi": "2.0~rc1", "0001b.efi": "2.0"}, "0001b.efi"),
        ({"0009a.efi": "1", "0010b.efi": "1"}, "0010b.efi"),  # same version: by file name
        ({"0001a+0-1.efi": "1", "0002b+0-3.efi": "2"}, "0002b+0-3.efi"),
        # Both names of one entry: the counted one, until its tries are gone.
        ({"0002b.efi": "2", "0002b+1-2.efi": "2"}, "0002b+1-2.efi"),
        ({"0002b.efi": "2", "0002b+0-3.efi": "2"}, "0002b.efi"),
    ],
)
def test_order_of_ukis(esp: Path, names: dict[str, str], first: str) -> None:
    for name, version in names.items():
        put_uki(esp, name, version)
    assert listed(esp)[0] == first


def test_order_of_everything(esp: Path) -> None:
    put_conf(esp, "z-old.conf", "linux /k\n")
    put_conf(esp, "a-old.conf", "linux /k\n")
    put_conf(esp, "m.conf", "linux /k\nsort-key gw\nmachine-id b\nversion 9\n")
    put_conf(esp, "l.conf", "linux /k\nsort-key gw\nmachine-id a\nversion 1\n")
    put_conf(esp, "k.conf", "linux /k\nsort-key gw\nmachine-id a\nversion 2\n")
    put_conf(esp, "first.conf", "linux /k\nsort-key aa\nversion 0\n")
    put_conf(esp, "gone+0-3.conf", "linux /k\nsort-key aa\nversion 9\n")
    assert listed(esp) == [
        "first.conf",  # lowest sort-key
        "k.conf",  # machine a before b, newest first
        "l.conf",
        "m.conf",
        "z-old.conf",  # without sort-key behind those with one, by name downwards
        "a-old.conf",
        "gone+0-3.conf",  # no tries left: last, whatever it says
    ]


def test_more_tries_left_first_when_all_else_is_equal(esp: Path) -> None:
    put_conf(esp, "x+02-0.conf", "linux /k\n")
    put_conf(esp, "x+2-00.conf", "linux /k\n")
    put_conf(esp, "x+2-01.conf", "linux /k\n")
    assert listed(esp)[0] == "x+2-01.conf"  # by name: 1 done is the higher version
    assert set(listed(esp)[1:]) == {"x+02-0.conf", "x+2-00.conf"}


# --- counting


def test_counting_down_and_falling_back(esp: Path) -> None:
    put_uki(esp, "0001a.efi", "1", cmdline="one")
    put_uki(esp, "0002b+3-0.efi", "2", cmdline="two")
    names, lines = [], []
    for _ in range(5):
        choice = boot(esp)
        assert choice is not None
        names.append(choice.path.name)
        lines.append(choice.cmdline)
        assert choice.path.is_file()
    assert names == ["0002b+2-1.efi", "0002b+1-2.efi", "0002b+0-3.efi", "0001a.efi", "0001a.efi"]
    assert lines == ["two", "two", "two", "one", "one"]
    assert listed(esp) == ["0001a.efi", "0002b+0-3.efi"]


def test_selected_id_is_the_name_before_the_count(esp: Path) -> None:
    put_uki(esp, "0002b+3-0.efi", "2")
    choice = boot(esp)
    assert choice is not None
    assert choice.entry.id == "0002b+3-0.efi"
    assert choice.path.name == "0002b+2-1.efi"


def test_type1_efi_entries_are_not_counted(esp: Path) -> None:
    put_conf(esp, "x+3-0.conf", "efi /k\n")
    choice = boot(esp)
    assert choice is not None
    assert choice.path.name == "x+3-0.conf"


def test_choose_changes_nothing(esp: Path) -> None:
    put_uki(esp, "0002b+3-0.efi", "2")
    assert choose(esp) == choose(esp)
    assert listed(esp) == ["0002b+3-0.efi"]


# --- loader.conf


@pytest.mark.parametrize(
    "conf, chosen",
    [
        ("timeout 5\n", "0001a.efi"),
        ("default 0002b*\n", "0002b+0-3.efi"),  # defeats counting: the bad one, for ever
        ("default 0002B*\n", "0002b+0-3.efi"),
        ("default nothing*\n", "0001a.efi"),
        ("#default 0002b*\n", "0001a.efi"),
        ("default @saved\n", "0001a.efi"),
        ("preferred 0002b*\n", "0001a.efi"),  # passes over the bad one
        ("preferred 000*\ndefault 0002b*\n", "0001a.efi"),
    ],
)
def test_patterns_of_loader_conf(esp: Path, conf: str, chosen: str) -> None:
    put_uki(esp, "0001a.efi", "1")
    put_uki(esp, "0002b+0-3.efi", "2")
    (esp / "loader/loader.conf").write_text(conf)
    choice = choose(esp)
    assert choice is not None
    assert choice.path.name == chosen


# --- EFI strings


@pytest.mark.parametrize("text", ["0042a+3-0.efi", "", "gerät.efi"])
def test_loader_strings(text: str) -> None:
    assert parse_loader_string(dump_loader_string(text)) == text
    assert parse_loader_string(f"{text}\n".encode()) == text


@pytest.mark.parametrize(
    "raw",
    [
        dump_loader_string("x")[:-1],
        dump_loader_string("x")[:-2],
        dump_loader_string("x") + b"\0\0",
        b"\x06\0\0\0\x00\xd8\0\0",
        b"\xff\xfe",
        b"a" * 5000,
    ],
)
def test_strange_loader_strings(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_loader_string(raw)


def test_loader_features() -> None:
    assert parse_loader_features(b"\x06\0\0\0" + (0x7F).to_bytes(8, "little")) == 0x7F
    with pytest.raises(FormatError):
        parse_loader_features(b"\x06\0\0\0")
