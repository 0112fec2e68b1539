"""Key files: made safely, found by id, loaded with the right passphrase only."""

import subprocess
from pathlib import Path

import pytest
from securesystemslib.signer import SSlibKey

from slipstream.delta.errors import UsageError
from slipstream.server.disk import Disk
from slipstream.server.keys import KeyRing, make_key, no_passphrase
from tests.server.faulty_disk import FaultyDisk, PowerCut

WORDS = "correct horse battery"


def words(role: str) -> str:
    return f"{WORDS} for {role}"


def test_a_key_is_encrypted_and_readable_by_its_owner_alone(tmp_path: Path):
    make_key(Disk(), tmp_path, "root", words)
    file = tmp_path / "root-1.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_other_tools_can_read_the_key(tmp_path: Path):
    key = make_key(Disk(), tmp_path, "root", words)
    command = [
        "openssl",
        "pkey",
        "-in",
        tmp_path / "root-1.key",
        "-passin",
        f"pass:{words('root')}",
    ]
    out = subprocess.run([*command, "-pubout"], capture_output=True, check=True).stdout
    assert out == (tmp_path / "root-1.pub").read_bytes()
    text = subprocess.run([*command, "-text", "-noout"], capture_output=True, check=True).stdout
    public = text.decode().replace(":", "").replace(" ", "").replace("\n", "")
    assert key.public_key.keyval["public"] in public


def test_key_ids_are_the_librarys_own(tmp_path: Path):
    key = make_key(Disk(), tmp_path, "root", no_passphrase).public_key
    made = SSlibKey.from_crypto(key._crypto_key())
    assert (key.keyid, key.keytype, key.scheme) == (made.keyid, "ed25519", "ed25519")


def test_a_ring_signs_with_the_keys_it_was_asked_for(tmp_path: Path):
    made = [
        make_key(Disk(), tmp_path, role, words).public_key for role in ("root", "root", "targets")
    ]
    assert sorted(path.name for path in tmp_path.glob("*.pub")) == [
        "root-1.pub",
        "root-2.pub",
        "targets-1.pub",
    ]
    signers = KeyRing([tmp_path], words).signers("root", [made[1].keyid, made[0].keyid, "unknown"])
    assert [signer.public_key.keyid for signer in signers] == [made[1].keyid, made[0].keyid]
    for signer in signers:
        signer.public_key.verify_signature(signer.sign(b"words"), b"words")


def test_keys_are_looked_for_in_every_folder(tmp_path: Path):
    stick = tmp_path / "stick"
    stick.mkdir()
    online = make_key(Disk(), tmp_path, "timestamp", words).public_key
    offline = make_key(Disk(), stick, "root", words).public_key
    ring = KeyRing([tmp_path, stick], words)
    assert ring.signers("root", [offline.keyid])
    assert ring.signers("timestamp", [online.keyid])
    assert not KeyRing([tmp_path], words).signers("root", [offline.keyid])


def test_a_key_whose_private_half_was_taken_away_is_known_but_does_not_sign(tmp_path: Path):
    key = make_key(Disk(), tmp_path, "root", words).public_key
    (tmp_path / "root-1.key").unlink()
    ring = KeyRing([tmp_path], words)
    assert ring.signers("root", [key.keyid]) == []
    assert ring.public_key(key.keyid) == key
    with pytest.raises(KeyError):
        ring.public_key("unknown")


def test_a_passphrase_is_asked_for_once_and_only_when_needed(tmp_path: Path):
    asked = []

    def ask(role: str) -> str:
        asked.append(role)
        return words(role)

    key = make_key(Disk(), tmp_path, "root", words).public_key
    ring = KeyRing([tmp_path], ask)
    ring.files()
    assert asked == []
    ring.signers("root", [key.keyid])
    ring.signers("root", [key.keyid])
    assert asked == ["root"]


def test_no_passphrase_makes_plain_keys_still_hidden_from_others(tmp_path: Path):
    key = make_key(Disk(), tmp_path, "root", no_passphrase).public_key
    file = tmp_path / "root-1.key"
    assert file.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert file.stat().st_mode & 0o777 == 0o600
    assert KeyRing([tmp_path], no_passphrase).signers("root", [key.keyid])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.chmod(0o640), "can be read by others.*mode 640.*chmod 600"),
        (lambda file: file.write_bytes(b"x"), "not a key"),
        (lambda file: file.write_bytes(file.read_bytes()[:80]), "not a key"),
    ],
)
def test_a_key_file_that_must_not_be_used(tmp_path: Path, spoil, message):
    key = make_key(Disk(), tmp_path, "root", words).public_key
    spoil(tmp_path / "root-1.key")
    with pytest.raises(UsageError, match=message):
        KeyRing([tmp_path], words).signers("root", [key.keyid])


@pytest.mark.parametrize(
    ("passphrases", "message"),
    [
        (lambda _role: "wrong passphrase", "wrong passphrase or not a key"),
        (no_passphrase, "no passphrase was given"),
    ],
)
def test_the_wrong_passphrase(tmp_path: Path, passphrases, message):
    key = make_key(Disk(), tmp_path, "root", words).public_key
    with pytest.raises(UsageError, match=message):
        KeyRing([tmp_path], passphrases).signers("root", [key.keyid])


def test_keys_of_another_kind_are_refused(tmp_path: Path):
    subprocess.run(
        [
            "openssl",
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            tmp_path / "root-1.key",
        ],
        check=True,
        capture_output=True,
    )
    command = ["openssl", "pkey", "-in", tmp_path / "root-1.key", "-pubout"]
    (tmp_path / "root-1.pub").write_bytes(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        KeyRing([tmp_path], words).files()
    (tmp_path / "root-1.pub").write_text("junk")
    with pytest.raises(UsageError, match="not a public key"):
        KeyRing([tmp_path], words).files()


def test_a_short_passphrase_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(UsageError, match="at least 12 characters, got 11"):
        make_key(Disk(), tmp_path, "root", lambda _role: "x" * 11)
    assert list(tmp_path.iterdir()) == []


def test_numbers_go_on_behind_what_a_killed_run_left(tmp_path: Path):
    with pytest.raises(PowerCut):
        make_key(FaultyDisk(1), tmp_path, "root", words)
    assert [path.name for path in tmp_path.iterdir()] == ["root-1.key"]
    make_key(Disk(), tmp_path, "root", words)
    assert (tmp_path / "root-2.pub").exists()
