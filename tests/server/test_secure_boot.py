"""Signatures for Secure Boot: made and checked by sbsigntool, on real parts, refused when in doubt."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from slipstream.delta.errors import FormatError, SignatureError, SlipstreamError, UsageError
from slipstream.delta.manifest import Place
from slipstream.server.keys import no_passphrase
from slipstream.server.patch import apply_payload
from slipstream.server.publish import publish
from slipstream.server.repo import Repository
from slipstream.server.request import ReleaseRequest
from slipstream.server.secure_boot import (
    ImageSigner,
    check_signature,
    is_signed,
    load_certificates,
    load_signer,
    sign_image,
)
from slipstream.server.stub import plan_image
from slipstream.server.uki import UkiRequest, build_uki
from tests.server.boot_parts import OS_RELEASE, any_kernel, make_signer, write_signer
from tests.server.repositories import NOW, make_repo

OWNER = make_signer("owner")
STRANGER = make_signer("stranger")


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return make_repo(tmp_path)


@pytest.fixture
def notes() -> list[str]:
    """All that `build` was told."""
    return []


@pytest.fixture
def build(tmp_path: Path, repo: Repository, notes: list[str]) -> Callable[..., Path]:
    """Makes a small image, signed by whom one likes."""
    (tmp_path / "root.img").write_bytes(b"root file system" * 5000)
    (tmp_path / "os-release").write_text(OS_RELEASE)
    request = UkiRequest(
        {"rootfs": tmp_path / "root.img"}, any_kernel(), tmp_path / "os-release", version="1"
    )

    def made(signer: ImageSigner | None = OWNER, **changes: object) -> Path:
        output = tmp_path / "made.efi"
        built = build_uki(repo, replace(request, **changes), output, signer=signer)
        assert built.signed_by == (signer.name if signer else None)
        notes.extend(built.notes)
        assert not list(tmp_path.glob(".*.tmp"))
        return output

    return made


def test_what_is_signed_is_what_was_built(tmp_path: Path, build: Callable[..., Path]) -> None:
    unsigned = build(None).read_bytes()
    assert not is_signed(build(None))
    signed = build()

    assert is_signed(signed)
    check_signature(signed, [OWNER.certificate])
    subprocess.run(["sbattach", "--remove", signed], check=True, capture_output=True)
    stripped = signed.read_bytes()
    head = 0x200  # sbsign sets the checksum and the place of the signature, nothing else
    assert stripped[head:] == unsigned[head:]
    assert sum(a != b for a, b in zip(stripped[:head], unsigned[:head], strict=True)) <= 12


def test_signatures_that_firmware_would_refuse(tmp_path: Path, build: Callable[..., Path]) -> None:
    signed = build()
    raw = signed.read_bytes()
    damaged = bytearray(raw)
    damaged[raw.index(b"roothash=") + 10] ^= 1

    for content, certificates in (
        (raw, [STRANGER.certificate]),
        (raw, []),
        (bytes(damaged), [OWNER.certificate]),
        (raw[:-8], [OWNER.certificate]),
        (build(None).read_bytes(), [OWNER.certificate]),
        (b"MZ", [OWNER.certificate]),
    ):
        signed.write_bytes(content)
        with pytest.raises(SignatureError, match="no valid signature"):
            check_signature(signed, certificates)


def test_one_of_several_certificates_is_enough_and_dates_do_not_count(
    build: Callable[..., Path],
) -> None:
    expired = make_signer("expired", until=NOW - timedelta(days=300))

    check_signature(build(), [STRANGER.certificate, OWNER.certificate])
    check_signature(build(expired), [expired.certificate])


@pytest.mark.parametrize("passphrase", [None, "a long passphrase"])
def test_key_files_are_read(tmp_path: Path, passphrase: str | None) -> None:
    key, certificate = write_signer(tmp_path, OWNER, passphrase)
    der = tmp_path / "owner.der"
    der.write_bytes(OWNER.certificate.public_bytes(Encoding.DER))

    for path in (certificate, der):
        signer = load_signer(key, path, lambda _role: passphrase)
        assert signer.certificate == OWNER.certificate
        assert signer.name == "CN=owner"
    if passphrase is not None:
        with pytest.raises(UsageError, match="wrong passphrase"):
            load_signer(key, certificate, lambda _role: "another passphrase")
        with pytest.raises(UsageError, match="no passphrase was given"):
            load_signer(key, certificate, no_passphrase)


def test_keys_that_cannot_sign_are_refused(tmp_path: Path) -> None:
    key, certificate = write_signer(tmp_path, OWNER)
    _, strangers = write_signer(tmp_path, STRANGER)
    both = tmp_path / "both.crt"
    both.write_bytes(certificate.read_bytes() + strangers.read_bytes())
    curve = tmp_path / "curve.key"
    pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    curve.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*pem))
    curve.chmod(0o600)

    for words, private, public in (
        ("no pair.*CN=stranger", key, strangers),
        ("no pair.*2 certificates", key, both),
        ("RSA, 2048 bits, got EC", curve, certificate),
        ("not a certificate", key, key),
        ("wrong passphrase or not a key", certificate.rename(tmp_path / "odd"), strangers),
    ):
        private.chmod(0o600)
        with pytest.raises(UsageError, match=words):
            load_signer(private, public, no_passphrase)
    key.chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        load_signer(key, strangers, no_passphrase)


def test_a_failed_signing_leaves_nothing(
    tmp_path: Path, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SlipstreamError, match="sbsigntool"):
        build()
    monkeypatch.undo()
    with pytest.raises(SlipstreamError, match="sbsign cannot sign"):
        sign_image(tmp_path / "root.img", tmp_path / "x", OWNER)
    assert not (tmp_path / "made.efi").exists()
    assert not (tmp_path / "x").exists()


def test_a_signed_stub_is_no_stub(tmp_path: Path) -> None:
    signed = tmp_path / "stub"
    sign_image(any_kernel(), signed, OWNER)

    with pytest.raises(FormatError, match="signed"):
        plan_image(signed.read_bytes(), [])


def test_publisher_checks_the_signature_and_changes_no_byte(
    tmp_path: Path, repo: Repository, build: Callable[..., Path]
) -> None:
    _, certificate = write_signer(tmp_path, OWNER)
    images = {"rootfs": (Place.PARTITION, tmp_path / "root.img"), "uki": (Place.UKI, build())}
    request = ReleaseRequest(version="1", images=images, jobs=1)

    def publish_(request: ReleaseRequest) -> tuple[str, ...]:
        return publish(repo, request, passphrases=no_passphrase, now=NOW).notes

    repo.uki_certs.write_bytes(STRANGER.certificate.public_bytes(Encoding.PEM))
    with pytest.raises(SignatureError, match="CN=stranger"):
        publish_(request)
    (needs,) = publish_(replace(request, uki_certs=[certificate]))  # signed by one of them
    assert "root hash" in needs
    repo.uki_certs.unlink()
    again, note = publish_(request)
    assert (again, "not checked" in note) == (needs, True)

    signed = images["uki"][1].read_bytes()
    payloads = list(repo.public.glob("blobs/*.payload"))
    for payload in payloads:
        apply_payload(None, payload, tmp_path / payload.name)
    assert signed in [(tmp_path / payload.name).read_bytes() for payload in payloads]
    build(None)
    with pytest.raises(SignatureError):
        publish_(replace(request, version="2", uki_certs=[certificate]))


def test_versions_of_published_images_are_compared(
    tmp_path: Path, repo: Repository, build: Callable[..., Path], notes: list[str]
) -> None:
    uki = build(None, version="10")
    images = {"rootfs": (Place.PARTITION, tmp_path / "root.img"), "uki": (Place.UKI, uki)}
    request = ReleaseRequest(version="10", images=images, jobs=1)
    publish(repo, request, passphrases=no_passphrase, now=NOW)

    build(version="10")
    build(version="10.1")
    build(version="9", channel="beta")
    assert notes == [notes[0]], "not signed, and nothing else"
    build(version="9")
    assert "would start the published release 10 instead" in notes[-1]
    with pytest.raises(UsageError, match="release 10 would be started instead"):
        publish(repo, replace(request, version="9"), passphrases=no_passphrase, now=NOW)
    publish(repo, replace(request, version="9", channel="beta"), passphrases=no_passphrase, now=NOW)


def test_certificate_files(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(
        b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (OWNER, STRANGER))
    )

    assert load_certificates([both]) == [OWNER.certificate, STRANGER.certificate]
    assert load_certificates([]) == []
    for content in (b"", b"-----BEGIN CERTIFICATE-----\n", b"\x30\x82"):
        both.write_bytes(content)
        with pytest.raises(UsageError, match="not a certificate"):
            load_certificates([both])
