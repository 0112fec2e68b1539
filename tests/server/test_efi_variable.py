"""Lists of certificates and signed updates, byte for byte beside sbsigntool's, and read by openssl."""

import struct
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from slipstream.server.efi_variable import (
    VENDORS,
    Update,
    dump_signature_list,
    dump_time,
    dump_update,
    signed_bytes,
)
from tests.server.boot_parts import make_signer, write_signer

OWNER = UUID("11223344-5566-7788-99aa-bbccddeeff00")
SIGNER = make_signer("owner")
TIME = datetime(2026, 11, 27, 3, 49, 24, tzinfo=UTC)


def test_a_signature_list_is_that_of_sbsiglist(tmp_path: Path) -> None:
    (tmp_path / "der").write_bytes(SIGNER.certificate.public_bytes(Encoding.DER))
    words = ["sbsiglist", "--owner", str(OWNER), "--type", "x509", "--output", tmp_path / "esl", tmp_path / "der"]  # fmt: skip
    subprocess.run(words, check=True)

    theirs = (tmp_path / "esl").read_bytes()
    assert dump_signature_list([SIGNER.certificate], OWNER) == theirs
    assert dump_signature_list([SIGNER.certificate] * 2, OWNER) == theirs * 2


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("append", [False, True])
def test_an_update_is_that_of_sbvarsign(tmp_path: Path, name: str, append: bool) -> None:
    """The time in it is the time of the call, so ours is made with the time of theirs."""
    key, certificate = write_signer(tmp_path, SIGNER)
    (tmp_path / "esl").write_bytes(dump_signature_list([SIGNER.certificate], OWNER))
    attributes = ["NON_VOLATILE", "BOOTSERVICE_ACCESS", "RUNTIME_ACCESS"] + [
        "APPEND_WRITE"
    ] * append
    words = ["--attr", ",".join(attributes), "--output", tmp_path / "auth", name, tmp_path / "esl"]
    subprocess.run(["sbvarsign", "--key", key, "--cert", certificate, *words], check=True, capture_output=True)  # fmt: skip

    theirs = (tmp_path / "auth").read_bytes()
    when = datetime(*struct.unpack_from("<H5B", theirs), tzinfo=UTC)
    update = Update(name, (tmp_path / "esl").read_bytes(), when, append)
    ours = dump_update(update, SIGNER.key, SIGNER.certificate)
    assert ours[:16] == theirs[:16] == dump_time(when)
    assert ours[20:40] == theirs[20:40], "revision, kind, type"
    assert ours[contents_at(ours) :] == theirs[contents_at(theirs) :] == update.contents
    for auth in (ours, theirs):
        assert is_signature_of(auth, signed_bytes(update), tmp_path)
    assert dump_update(update, SIGNER.key, SIGNER.certificate) == ours


def test_all_that_an_update_does_is_signed(tmp_path: Path) -> None:
    update = Update("db", b"contents", TIME)
    auth = dump_update(update, SIGNER.key, SIGNER.certificate)

    assert auth[40 + 13 : 40 + 22].hex() == "608648016503040201", "EDK2 looks for SHA-256 here"
    assert is_signature_of(auth, signed_bytes(update), tmp_path)
    for other in (
        Update("KEK", b"contents", TIME),
        Update("db", b"Contents", TIME),
        Update("db", b"contents", TIME + timedelta(seconds=1)),
        Update("db", b"contents", TIME, append=True),
    ):
        assert not is_signature_of(auth, signed_bytes(other), tmp_path)


def test_times_are_utc_to_the_second() -> None:
    there = TIME.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert dump_time(there) == dump_time(TIME) == struct.pack("<H6B8x", 2026, 11, 27, 3, 49, 24, 0)


def contents_at(auth: bytes) -> int:
    (size,) = struct.unpack_from("<I", auth, 16)
    return 16 + size


def is_signature_of(auth: bytes, content: bytes, folder: Path) -> bool:
    """What openssl says. It wants a ContentInfo around the SignedData; firmware wants none."""
    signed_data = auth[40 : contents_at(auth)]
    info = bytes.fromhex("06092a864886f70d010702") + tlv(0xA0, signed_data)
    (folder / "p7").write_bytes(tlv(0x30, info))
    (folder / "content").write_bytes(content)
    _, certificate = write_signer(folder, SIGNER)
    words = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", folder / "p7", "-purpose", "any",
             "-content", folder / "content", "-CAfile", certificate, "-out", "/dev/null"]  # fmt: skip
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def tlv(tag: int, value: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(value).to_bytes(2, "big") + value
