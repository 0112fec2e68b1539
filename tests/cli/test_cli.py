"""The command line as a contract: groups, options, exit codes, messages, JSON."""

import errno
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from slipstream.cli import COMMANDS, EXTRAS, cli, main
from slipstream.cli.progress import Steps, megabytes
from slipstream.delta import errors
from slipstream.delta.payload import MAGIC

CONTRACT = {
    "diff": ["--output", "--jobs", "--memory", "--profile"],
    "patch": ["--output"],
    "inspect": ["--json"],
    "repo init": ["--product", "--threshold", "--insecure-no-passphrase"],
    "repo publish": ["--version", "--image", "--delta-from", "--uki-cert"],
    "repo root-hash": ["--json"],
    "repo uki": [
        "--image",
        "--linux",
        "--initrd",
        "--os-release",
        "--version",
        "--cmdline",
        "--stub",
    ],
    "repo secure-boot-keys": ["--name", "--add-db"],
    "repo refresh": ["--offline"],
    "repo rotate-key": ["--old"],
    "serve": ["--listen", "--database", "--tls-cert", "--tls-key", "--trusted-proxy"],
    **{
        f"device {name}": ["--config"]
        for name in ("status", "check", "plan", "install", "confirm", "rollback", "run", "unit")
    },
    "demo": ["--source", "--target"],
    "rollout create": ["--server", "--token-file", "--phase", "--filter", "--soak", "--json"],
    "rollout show": ["--server", "--json"],
    "rollout simulate": ["--phase", "--devices", "--fail", "--json"],
    "device-admin add": ["--server", "--token-file", "--json"],
    "user add": ["--server", "--token-file", "--json"],
}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "slipstream", *map(str, words)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_help_groups_the_commands_by_who_uses_them() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output

    lines = [line.partition("  ")[0] or line.split()[0] for line in text.splitlines() if line]
    wanted = ("Build machine:", "diff", "repo", "Server:", "serve", "Device:", "device")
    places = [lines.index(word) for word in wanted]
    assert places == sorted(places)
    assert "6 device fault" in " ".join(text.split())
    assert {name for _, name, _, _ in COMMANDS} == {words.split()[0] for words in CONTRACT}


@pytest.mark.parametrize("words, options", CONTRACT.items())
def test_commands_have_the_options_of_the_contract(words: str, options: list[str]) -> None:
    result = CliRunner().invoke(cli, [*words.split(), "--help"])

    assert result.exit_code == 0
    assert [option for option in options if option not in result.output] == []


@pytest.mark.parametrize(
    "error, code",
    [
        (errors.SlipstreamError("x"), 1),
        (errors.Busy("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.NothingToDo("x"), 3),
        (errors.DigestMismatch("x"), 4),
        (errors.RolledBack("x"), 4),
        (errors.WrongDevice("x"), 4),
        (errors.Unavailable("x"), 5),
        (errors.DeviceFault("x"), 6),
        (errors.Interrupted("x"), 130),
    ],
)
def test_errors_become_exit_codes(
    error: errors.SlipstreamError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == code
    assert capsys.readouterr().err == "slipstream: x\n"


@pytest.mark.parametrize("missing, extra", [("numpy", "build"), ("structlog", "server")])
def test_a_missing_extra_is_named(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 1
    assert f"pip install '.[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Make room"),
        (PermissionError(errno.EACCES, "Permission denied", "repo"), "repo: Permission denied\n"),
    ],
)
def test_errors_of_the_system_are_said_in_one_line(
    error: OSError, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"slipstream: {text}")


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_is_said_in_one_line(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("slipstream.cli.inspect.describe", stop)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", __file__])

    assert ended.value.code == 130
    assert capsys.readouterr().err == "slipstream: interrupted\n"


def test_an_interrupted_publish_says_what_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    repo, image = tmp_path / "repo", tmp_path / "image"
    image.write_bytes(b"image" * 1000)
    run("repo", "init", repo, "--product", "gateway", "--insecure-no-passphrase")
    words = ["repo", "publish", str(repo), "--version", "1", "--image", f"rootfs={image}"]
    monkeypatch.setattr(Steps, "report", stop)
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 130
    assert capsys.readouterr().err == (
        "slipstream: interrupted; what is published is whole."
        " Run the same command again: it keeps the payloads that are finished\n"
    )
    assert run(*words).returncode == 0


def test_every_optional_library_has_its_extra() -> None:
    """EXTRAS names what pyproject.toml makes optional, so that no absence ends in a traceback."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    known = {name.lower().replace("_", "-") for name in EXTRAS} | {"argon2-cffi"}
    assert EXTRAS["argon2"] == "server"  # imported by a name of its own

    for extra in ("device", "build", "server"):
        names = {re.split(r"[\[<>=]", line)[0].lower() for line in optional[extra]}
        assert names - known <= {"alembic", "aiosqlite", "asyncpg"}, (
            "these come in behind sqlalchemy"
        )


def test_an_error_says_what_where_expected_got_and_what_to_do() -> None:
    error = errors.UsageError(
        "not a number", where="a.toml:3", expected="1 to 9", got="x", hint="Correct it"
    )

    assert str(error) == "a.toml:3: not a number; expected 1 to 9, got x. Correct it"


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4_600_000, "4.6 MB"),
        (1_258_291_200, "1.26 GB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert megabytes(size) == text


def test_diff_patch_and_inspect(tmp_path: Path) -> None:
    source, target, payload, made = (
        tmp_path / name for name in ("source", "target", "payload", "made")
    )
    source.write_bytes(os.urandom(300_000))
    target.write_bytes(b"new" + source.read_bytes()[:250_000] + b"tail")

    diff = run("diff", source, target, "-o", payload, "--json")
    patch = run("patch", source, payload, "-o", made)
    told = run("inspect", payload, "--json")
    words = run("inspect", payload, "--frames")

    assert (diff.returncode, patch.returncode, told.returncode, words.returncode) == (0, 0, 0, 0)
    assert made.read_bytes() == target.read_bytes()
    assert json.loads(diff.stdout)["payload_bytes"] == payload.stat().st_size < 5000
    found = json.loads(told.stdout)
    assert (found["kind"], found["type"]) == ("payload", "delta")
    assert found["target_bytes"] == target.stat().st_size
    assert sum(kind["target_bytes"] for kind in found["frames"].values()) == target.stat().st_size
    assert "payload bytes" in words.stdout


def test_a_full_payload_needs_no_source(tmp_path: Path) -> None:
    target, payload, made = (tmp_path / name for name in ("target", "payload", "made"))
    target.write_bytes(b"hello" * 1000)

    assert run("diff", "-", target, "-o", payload).returncode == 0
    assert run("patch", "-", payload, "-o", made).returncode == 0

    assert made.read_bytes() == target.read_bytes()


def test_wrong_input_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    source, target, payload, made = (
        tmp_path / name for name in ("source", "target", "payload", "made")
    )
    source.write_bytes(os.urandom(100_000))
    target.write_bytes(source.read_bytes() + b"more")
    made.write_bytes(b"precious")
    assert run("diff", source, target, "-o", payload).returncode == 0

    wrong_source = run("patch", target, payload, "-o", made)
    no_source = run("patch", "-", payload, "-o", made)
    truncated = tmp_path / "truncated"
    truncated.write_bytes(payload.read_bytes()[:-3])
    short = run("patch", source, truncated, "-o", made)
    no_payload = run("patch", source, target, "-o", made)
    missing = run("diff", source, tmp_path / "nothing", "-o", payload)
    bad_size = run("diff", source, target, "-o", payload, "--memory", "lots")

    codes = [
        done.returncode for done in (wrong_source, no_source, short, no_payload, missing, bad_size)
    ]
    assert codes == [4, 2, 4, 4, 2, 2]
    assert made.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "made",
        "payload",
        "source",
        "target",
        "truncated",
    ]
    for done in (wrong_source, no_source, short, no_payload):
        assert done.stderr.startswith("slipstream: "), done.stderr


def test_messages_about_a_broken_payload_name_the_file(tmp_path: Path) -> None:
    target, payload = tmp_path / "target", tmp_path / "payload"
    target.write_bytes(os.urandom(100_000))
    assert run("diff", "-", target, "-o", payload).returncode == 0
    whole = payload.read_bytes()
    for broken in (b"", os.urandom(5000), whole[:40], whole[:20] + bytes(len(whole) - 20)):
        payload.write_bytes(broken)
        for words in (("patch", "-", payload, "-o", tmp_path / "made"), ("inspect", payload)):
            done = run(*words)
            assert done.returncode == 4
            assert str(payload) in done.stderr
            assert done.stderr.count("not a payload") <= 1
            assert "b'" not in done.stderr


def test_inspect_checks_the_body_of_a_payload(tmp_path: Path) -> None:
    target, payload = tmp_path / "target", tmp_path / "payload"
    target.write_bytes(os.urandom(1_200_000))
    assert run("diff", "-", target, "-o", payload).returncode == 0
    whole = payload.read_bytes()
    sound = run("inspect", payload)
    assert sound.returncode == 0
    assert "body             every frame has the digest that the index says" in sound.stdout
    index_size = json.loads(run("inspect", payload, "--json").stdout)["index_bytes"]
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    for data, words in (
        (whole[:-3], f"cut short; expected {len(whole)} bytes, got {len(whole) - 3}"),
        (whole + b"x", f"longer than it says; expected {len(whole)} bytes, got {len(whole) + 1}"),
        (bytes(damaged), "frame 2 of the payload is damaged; expected SHA-256 "),
    ):
        payload.write_bytes(data)
        done = run("inspect", payload)
        assert done.returncode == 4
        assert "body             not what the index says" in done.stdout
        assert done.stderr.startswith(f"slipstream: {payload}: ")
        assert words in done.stderr
        as_json = run("inspect", payload, "--json")
        assert (as_json.returncode, json.loads(as_json.stdout)["body"]) == (4, "broken")
    payload.write_bytes(whole[:index_size])
    alone = json.loads(run("inspect", payload, "--json").stdout)
    assert (alone["kind"], alone["body"]) == ("payload index", "elsewhere")


def test_a_payload_of_another_version_is_told_from_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(MAGIC + bytes([7, 0]) + bytes(200))
    (tmp_path / "other").write_bytes(bytes(range(200)))
    assert (
        "payload of another version; expected 2, got 7"
        in run("inspect", tmp_path / "payload").stderr
    )
    assert (
        f"expected magic {MAGIC.hex()}, or JSON, got 0001020304050607\n"
        in run("inspect", tmp_path / "other").stderr
    )


def test_inspect_reads_metadata_and_manifests(tmp_path: Path) -> None:
    repo, image = tmp_path / "repo", tmp_path / "image"
    image.write_bytes(b"image" * 1000)
    assert (
        run("repo", "init", repo, "--product", "gateway", "--insecure-no-passphrase").returncode
        == 0
    )
    assert (
        run("repo", "publish", repo, "--version", "1", "--image", f"rootfs={image}").returncode == 0
    )

    (manifest,) = (repo / "public/targets/releases/1").glob("*.manifest.json")
    told = json.loads(run("inspect", manifest, "--json").stdout)
    kinds = {
        path.name: json.loads(run("inspect", path, "--json").stdout)["kind"]
        for path in (repo / "public/metadata").iterdir()
    }

    assert (told["kind"], told["release"], told["counter"]) == ("release manifest", "1", 1)
    assert kinds["timestamp.json"] == "TUF timestamp"
    assert kinds["1.root.json"] == "TUF root"
    assert run("inspect", image).returncode == 4


def test_a_passphrase_is_asked_for_only_on_a_terminal(tmp_path: Path) -> None:
    done = run("repo", "init", tmp_path / "repo", "--product", "gateway")

    assert done.returncode == 2
    assert "--passphrase-file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_short_passphrase_leaves_nothing_behind(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("short\n")
    folder.mkdir()
    done = run("repo", "init", folder / "repo", "--product", "x", "--passphrase-file", secret)

    assert done.returncode == 2
    assert "too short; expected at least 12 characters, got 5" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_passphrase_file_protects_and_opens_the_keys(tmp_path: Path) -> None:
    repo, image, secret = tmp_path / "repo", tmp_path / "image", tmp_path / "secret"
    secret.write_text("correct horse battery\n")
    image.write_bytes(b"image" * 1000)
    assert (
        run("repo", "init", repo, "--product", "gateway", "--passphrase-file", secret).returncode
        == 0
    )
    keys = list((repo / "keys").glob("*.key"))

    publish = ["repo", "publish", repo, "--version", "1", "--image", f"rootfs={image}"]
    assert run(*publish).returncode == 2
    (tmp_path / "wrong").write_text("wrong horse battery\n")
    assert run(*publish, "--passphrase-file", tmp_path / "wrong").returncode == 2
    assert run(*publish, "--passphrase-file", secret).returncode == 0

    assert keys
    assert {oct(key.stat().st_mode & 0o777) for key in keys} == {"0o600"}
    assert all(b"ENCRYPTED" in key.read_bytes() for key in keys)
    assert run("repo", "rotate-key", repo, "timestamp", "--passphrase-file", secret).returncode == 0
    assert run("repo", "refresh", repo, "--passphrase-file", secret).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["repo", "publish", "REPO", "--version", "1", "--image", "rootfs"],
        ["repo", "publish", "REPO", "--version", "../1", "--image", "rootfs=IMAGE"],
        [
            "repo",
            "publish",
            "REPO",
            "--version",
            "1",
            "--image",
            "rootfs=IMAGE",
            "--delta-from",
            "9",
        ],
        ["repo", "publish", "NOWHERE", "--version", "1", "--image", "rootfs=IMAGE"],
        ["repo", "init", "REPO", "--product", "gateway", "--insecure-no-passphrase"],
        [
            "repo",
            "init",
            "NEW",
            "--product",
            "gateway",
            "--threshold",
            "root=four",
            "--insecure-no-passphrase",
        ],
        ["serve", "NOWHERE"],
        ["serve", "REPO", "--listen", "nonsense"],
        ["serve", "REPO", "--listen", "0.0.0.0:0"],  # in the clear
        ["serve", "REPO", "--listen", ":0", "--insecure-http"],  # nobody operates it
        ["serve", "REPO", "--tls-cert", "IMAGE"],
        ["serve", "REPO", "--listen", "127.0.0.1:0", "--public-url", "foo"],
        ["serve", "REPO", "--listen", "127.0.0.1:0", "--tls-cert", "IMAGE", "--tls-key", "IMAGE"],
        ["serve", "REPO", "--database", "postgresql://fleet:secret@db.example.org/fleet"],
        ["serve", "REPO", "--listen", "127.0.0.1:0", "--database", "mysql://db/fleet"],
        ["device", "status", "--config", "NOWHERE"],
        ["device", "install", "--config", "IMAGE"],
    ],
)
def test_usage_errors_exit_2(words: list[str], tmp_path: Path) -> None:
    repo, image = tmp_path / "repo", tmp_path / "image"
    image.write_bytes(b"image" * 1000)
    assert (
        run("repo", "init", repo, "--product", "gateway", "--insecure-no-passphrase").returncode
        == 0
    )
    places = {
        "REPO": repo,
        "IMAGE": image,
        "NOWHERE": tmp_path / "nowhere",
        "NEW": tmp_path / "new",
    }

    done = run(
        *(
            word.replace("IMAGE", str(image)) if "=" in word else places.get(word, word)
            for word in words
        )
    )

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: both fail in write(2)."""
    target, output = tmp_path / "target", tmp_path / "output"
    target.write_bytes(os.urandom(300_000))
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from slipstream.cli import main; main(sys.argv[1:])"
    )

    done = subprocess.run(
        [sys.executable, "-c", limit, "diff", "-", target, "-o", output, "--jobs", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert f"slipstream: {output}: cannot be written; got File too large" in done.stderr
    assert os.listdir(tmp_path) == ["target"]


def test_root_hash_is_what_veritysetup_says(tmp_path: Path) -> None:
    repo, image, tree = tmp_path / "repo", tmp_path / "image", tmp_path / "tree"
    image.write_bytes(os.urandom(4096 * 300))
    made = run("repo", "init", repo, "--product", "gateway", "--insecure-no-passphrase")
    assert made.returncode == 0
    salt = json.loads((repo / "repo.json").read_text())["salt"]

    said = run("repo", "root-hash", repo, image)
    whole = json.loads(run("repo", "root-hash", repo, image, "--json").stdout)
    reference = subprocess.run(
        ["/usr/sbin/veritysetup", "format", f"--salt={salt}", image, tree],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert said.stdout.strip() == whole["root"]
    assert said.stdout.strip() in reference.split()
    assert (whole["salt"], whole["data_blocks"]) == (salt, 300)


def test_publish_refuses_a_uki_that_cannot_boot(tmp_path: Path) -> None:
    repo, image = tmp_path / "repo", tmp_path / "image"
    image.write_bytes(b"image" * 1000)
    run("repo", "init", repo, "--product", "gateway", "--insecure-no-passphrase")
    words = ["repo", "publish", repo, "--version", "1", "--image", f"rootfs={image}"]

    refused = run(*words, "--image", f"uki={image}")
    noted = run(*words)

    assert refused.returncode == 2
    assert "no unified kernel image" in refused.stderr
    assert noted.returncode == 0
    assert "note: neither a uki nor a linux image" in noted.stderr
