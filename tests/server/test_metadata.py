"""Metadata as values, without a repository."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError, SignatureError, UsageError
from slipstream.delta.limits import COUNTER_MAX, TIMESTAMP_BYTES_MAX
from slipstream.server.metadata import (
    check_pinned,
    check_signed,
    check_threshold,
    dump_metadata,
    first_root,
    first_targets,
    meta_file,
    parse_metadata,
    renewed,
    sign,
    target_file,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, 999, tzinfo=UTC)
SIGNERS = [CryptoSigner.generate_ed25519() for _ in range(3)]
KEYS = [signer.public_key for signer in SIGNERS]
ROOT = first_root(
    {"root": KEYS, "targets": KEYS[:2], "snapshot": KEYS[:1], "timestamp": KEYS[:1]},
    {"root": 2, "targets": 2, "snapshot": 1, "timestamp": 1},
)


def test_round_trip():
    metadata = sign(ROOT, SIGNERS)
    raw = dump_metadata(metadata)
    assert parse_metadata(raw, Root, "root") == metadata
    assert b" " not in raw
    assert b"\n" not in raw


def test_the_signed_bytes_are_canonical_json():
    signer = SIGNERS[0]
    metadata = sign(renewed(Timestamp(), version=1, now=NOW, days=1), [signer])
    signed = json.loads(dump_metadata(metadata))["signed"]
    canonical = json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()
    signer.public_key.verify_signature(metadata.signatures[signer.public_key.keyid], canonical)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b'{"signed": {}, "signatures": []}'])
def test_what_is_no_metadata(raw):
    with pytest.raises(FormatError, match=r"here: not (TUF metadata|JSON|UTF-8|a JSON object)"):
        parse_metadata(raw, Root, "here")


def test_metadata_of_another_type():
    raw = dump_metadata(sign(Snapshot(), SIGNERS))
    with pytest.raises(FormatError, match="another role; expected root, got snapshot"):
        parse_metadata(raw, Root, "here")


@pytest.mark.parametrize(
    ("signers", "good"),
    [
        ([], False),
        (SIGNERS[:1], False),
        (SIGNERS[2:], False),
        (SIGNERS[1:], False),
        (SIGNERS[:2], True),
        (SIGNERS, True),
    ],
)
def test_thresholds(signers, good):
    targets = sign(first_targets([], 1), signers)
    role = ROOT.roles["targets"]
    if good:
        check_threshold("targets", role, signers)
        check_signed(ROOT, "targets", targets)
    else:
        with pytest.raises(UsageError, match="not enough keys to sign targets metadata"):
            check_threshold("targets", role, signers)
        with pytest.raises(SignatureError, match="targets: too few valid signatures"):
            check_signed(ROOT, "targets", targets)


def test_one_key_twice_is_one_key():
    with pytest.raises(UsageError, match="expected 2 of 2, got 1"):
        check_threshold("targets", ROOT.roles["targets"], [SIGNERS[0], SIGNERS[0]])


def test_what_devices_refuse_is_not_published():
    # One public key under two ids is one key; what is read as 1 must say 1.
    twin = SSlibKey("twin", KEYS[0].keytype, KEYS[0].scheme, dict(KEYS[0].keyval))
    root = first_root({role: [KEYS[0], twin] for role in ROOT.roles}, dict.fromkeys(ROOT.roles, 2))
    targets = sign(first_targets([], 1), SIGNERS[:1])
    signature = targets.signatures[KEYS[0].keyid].signature
    targets.signatures["twin"] = Signature("twin", signature)
    with pytest.raises(SignatureError, match="distinct keys"):
        check_signed(root, "targets", targets)

    document = json.loads(dump_metadata(sign(ROOT, SIGNERS)))
    document["signed"]["version"] = None
    with pytest.raises(FormatError, match="read in two ways"):
        parse_metadata(json.dumps(document).encode(), Root, "root")


def test_a_signature_holds_for_its_bytes_only():
    metadata = sign(first_targets([], 1), SIGNERS)
    metadata.signed.version = 2
    with pytest.raises(SignatureError):
        check_signed(ROOT, "targets", Metadata.from_bytes(dump_metadata(metadata)))


def test_a_role_that_is_not_delegated():
    with pytest.raises(SignatureError):
        check_signed(ROOT, "deltas", sign(first_targets([], 1), SIGNERS))


def test_renewing_copies():
    old = Timestamp(version=4)
    new = renewed(old, version=6, now=NOW, days=7)
    assert (old.version, new.version) == (4, 6)
    assert new.expires == NOW.replace(microsecond=0) + timedelta(days=7)


@pytest.mark.parametrize("version", [3, COUNTER_MAX + 1])
def test_versions_neither_fall_nor_overflow(version):
    with pytest.raises(FormatError, match="version of timestamp metadata"):
        renewed(Timestamp(version=4), version=version, now=NOW, days=7)


def test_pins():
    metadata = sign(Snapshot(version=3), SIGNERS)
    raw = dump_metadata(metadata)
    check_pinned(metadata, raw, meta_file(3, raw), "snapshot")
    with pytest.raises(FormatError, match="another version; expected 4, got 3"):
        check_pinned(metadata, raw, meta_file(4, raw), "snapshot")
    for other in (raw + b" ", raw[:-1], raw.replace(b"3", b"4", 1)):
        with pytest.raises(FormatError, match="snapshot: metadata is not what was signed"):
            check_pinned(metadata, other, meta_file(3, raw), "snapshot")


def test_metadata_too_large_for_clients():
    timestamp = Timestamp(unrecognized_fields={"padding": "x" * TIMESTAMP_BYTES_MAX})
    with pytest.raises(FormatError, match="timestamp metadata too large"):
        dump_metadata(sign(timestamp, SIGNERS[:1]))


def test_target_files():
    target = target_file("releases/1/a.full", b"index", {"image": "a"})
    assert (target.path, target.length, target.custom) == ("releases/1/a.full", 5, {"image": "a"})
    assert target.hashes == {"sha256": Digest.of(b"index").hex}
    contents = Targets(targets={target.path: target})
    again = parse_metadata(dump_metadata(sign(contents, SIGNERS)), Targets, "targets")
    assert again.signed.targets[target.path].custom == {"image": "a"}
