"""An owner's keys: made whole or not at all, readable by him alone, and each signed by the right one."""

import subprocess
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from slipstream.delta.errors import UsageError
from slipstream.server.efi_variable import Update, dump_update
from slipstream.server.keys import no_passphrase
from slipstream.server.owner_keys import add_db_key, make_owner_keys
from slipstream.server.secure_boot import check_signature, load_signer, sign_image
from tests.server.boot_parts import any_kernel
from tests.server.faulty_disk import PowerCut
from tests.server.repositories import NOW

WORDS = "correct horse battery"
OWNER = UUID("11223344-5566-7788-99aa-bbccddeeff00")
SIGNED_BY = {"PK": "PK", "KEK": "PK", "db": "KEK"}
WHEN = NOW.replace(microsecond=0)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owner") / "keys"
    make_owner_keys(folder, "Example", passphrases=lambda _role: WORDS, now=WHEN, owner=OWNER)
    return folder


def test_what_is_made(keys: Path) -> None:
    names = sorted(str(path.relative_to(keys)) for path in keys.rglob("*") if path.is_file())

    assert names == sorted(
        [f"{role}.{kind}" for role in SIGNED_BY for kind in ("key", "crt", "esl")]
        + [f"auto/{role}.auth" for role in SIGNED_BY] + ["no-PK.auth", "owner.guid"]
    )  # fmt: skip
    assert keys.stat().st_mode & 0o777 == 0o700
    for role in SIGNED_BY:
        assert (keys / f"{role}.key").stat().st_mode & 0o777 == 0o600
        assert b"ENCRYPTED" in (keys / f"{role}.key").read_bytes()
        signer = load_signer(keys / f"{role}.key", keys / f"{role}.crt", lambda _role: WORDS)
        assert signer.name == f"CN=Example {role}"


def test_each_update_is_signed_by_the_key_above(keys: Path) -> None:
    signers = {
        role: load_signer(keys / f"{role}.key", keys / f"{role}.crt", lambda _role: WORDS)
        for role in SIGNED_BY
    }
    for role, by in SIGNED_BY.items():
        update = Update(role, (keys / f"{role}.esl").read_bytes(), WHEN)
        auth = (keys / "auto" / f"{role}.auth").read_bytes()
        assert auth == dump_update(update, signers[by].key, signers[by].certificate)
    later = Update("PK", b"", WHEN + timedelta(seconds=1))
    signed = dump_update(later, signers["PK"].key, signers["PK"].certificate)
    assert (keys / "no-PK.auth").read_bytes() == signed


def test_db_signs_images_and_gets_a_second_key(keys: Path, tmp_path: Path) -> None:
    key = add_db_key(keys, "Example", passphrases=lambda _role: WORDS, now=WHEN)
    db_2 = (keys / "db-2.key").rename(tmp_path / "db-2.key")  # to where images are signed
    again = add_db_key(keys, "Example", passphrases=lambda _role: WORDS, now=WHEN)
    db_2.rename(keys / "db-2.key")

    assert (key, again) == ("db-2", "db-3")
    signer = load_signer(keys / "db-2.key", keys / "db-2.crt", lambda _role: WORDS)
    sign_image(any_kernel(), tmp_path / "signed", signer)
    check_signature(tmp_path / "signed", [signer.certificate])
    kek = load_signer(keys / "KEK.key", keys / "KEK.crt", lambda _role: WORDS)
    esl = (keys / "db-2.esl").read_bytes()
    for name, update in (
        ("add", Update("db", esl, WHEN, append=True)),
        ("only", Update("db", esl, WHEN + timedelta(seconds=1))),
    ):
        signed = dump_update(update, kek.key, kek.certificate)
        assert (keys / f"db-2-{name}.auth").read_bytes() == signed


def test_keys_are_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise PowerCut

    monkeypatch.setattr("slipstream.server.disk.Disk.rename", cut)
    with pytest.raises(PowerCut):
        make_owner_keys(tmp_path / "k", "x", passphrases=no_passphrase, now=WHEN, owner=OWNER)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused(keys: Path, tmp_path: Path) -> None:
    def refused(words: str, folder: Path, name: str = "x", passphrase: str | None = None) -> None:
        with pytest.raises(UsageError, match=words):
            make_owner_keys(folder, name, passphrases=lambda _: passphrase, now=WHEN, owner=OWNER)

    refused("something already", keys)
    refused("one line of printable", tmp_path / "a", "a\nb")
    refused("name is empty", tmp_path / "a", "")
    refused("too short", tmp_path / "a", passphrase="short")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="no key exchange key"):
        add_db_key(tmp_path, "x", passphrases=no_passphrase, now=WHEN)
    with pytest.raises(UsageError, match="wrong passphrase"):
        add_db_key(keys, "x", passphrases=lambda _role: "another passphrase", now=WHEN)


def test_openssl_reads_a_key(keys: Path) -> None:
    words = [
        "openssl",
        "rsa",
        "-in",
        keys / "db.key",
        "-passin",
        f"pass:{WORDS}",
        "-check",
        "-noout",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)

    assert "RSA key ok" in done.stdout + done.stderr
