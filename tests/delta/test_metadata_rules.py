"""What one piece of metadata must be: hostile JSON, numbers, and who counts as a signer."""

import json
from copy import deepcopy

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from slipstream.delta.errors import FormatError, Rejected, SignatureError
from slipstream.delta.limits import COUNTER_MAX, JSON_DEPTH_MAX, JSON_DIGITS_MAX, ROLE_KEYS_MAX
from slipstream.delta.metadata_rules import Unverified, check_signed, key_identity, parse_metadata
from tests.conformance.repository import Repository

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def root_document() -> dict:
    return json.loads(Repository().files["metadata/1.root.json"])


def dump(document: object) -> bytes:
    return json.dumps(document).encode()


def test_sound_metadata_parses() -> None:
    repository = Repository()
    for role, kind in [("timestamp", Timestamp), ("1.snapshot", Snapshot), ("1.targets", Targets)]:
        metadata = parse_metadata(repository.files[f"metadata/{role}.json"], kind, role)
        assert metadata.signed.version == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"signed"',
        b"{}",
        b'{"signed": {}, "signatures": []}',
        b'{"signed": null, "signatures": []}',
        b'{"signed": {"_type": "root"}, "signatures": [null]}',
        b'{"signed": NaN}',
        b'{"signed": Infinity}',
        b'{"signed": 1.5}',
        b'{"signed": 1e9}',
        b'{"a": 1, "a": 2}',
        b'{"signed": ' + b"9" * (JSON_DIGITS_MAX + 1) + b"}",
        b'{"signed": ' + b"9" * 100_000 + b"}",
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000,
        b'"' + b'\\"' * 200_000,
        b'{"signed": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe",
        b'{"signed": "\x00"}',
    ],
    ids=range(23),
)
def test_hostile_json_is_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_metadata(raw, Root, "root")


def test_every_truncation_and_trailing_junk_is_a_format_error() -> None:
    raw = Repository().files["metadata/timestamp.json"].rstrip()
    for size in range(len(raw)):
        with pytest.raises(FormatError):
            parse_metadata(raw[:size], Timestamp, "timestamp")
    for junk in (b"x", b"{}", b"\x00", b"]"):
        with pytest.raises(FormatError):
            parse_metadata(raw + junk, Timestamp, "timestamp")


def test_nesting_is_allowed_up_to_the_limit_and_brackets_in_strings_do_not_count() -> None:
    document = root_document()
    document["signed"]["note"] = "[" * 1000 + '"{'
    parse_metadata(dump(document), Root, "root")
    deep: object = 1
    for _ in range(JSON_DEPTH_MAX - 2):  # the document and "signed" are two levels
        deep = [deep]
    document["signed"]["note"] = deep
    parse_metadata(dump(document), Root, "root")
    document["signed"]["note"] = [deep]
    with pytest.raises(FormatError, match="nested"):
        parse_metadata(dump(document), Root, "root")


def test_a_duplicate_key_inside_is_refused() -> None:
    raw = Repository().files["metadata/timestamp.json"].decode()
    doubled = raw.replace('"version": 1', '"version": 1, "version": 1', 1)
    assert doubled != raw
    with pytest.raises(FormatError, match="twice"):
        parse_metadata(doubled.encode(), Timestamp, "timestamp")


@pytest.mark.parametrize("version", [0, -1, COUNTER_MAX + 1, 2**63, True, "1", [1]])
def test_versions_are_bounded_integers(version: object) -> None:
    document = root_document()
    document["signed"]["version"] = version
    with pytest.raises(FormatError):
        parse_metadata(dump(document), Root, "root")


@pytest.mark.parametrize("threshold", [0, -1, True, "1", None, ROLE_KEYS_MAX + 1])
def test_thresholds_are_at_least_one(threshold: object) -> None:
    document = root_document()
    document["signed"]["roles"]["targets"]["threshold"] = threshold
    with pytest.raises(FormatError):
        parse_metadata(dump(document), Root, "root")


HOSTILE = "\x1b[2J\n" + "y" * 1_000_000


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Snapshot, {"meta": {HOSTILE: {"version": 2**40}}}),
        (Snapshot, {"meta": {HOSTILE: {"version": 1, "hashes": 7}}}),
        (Snapshot, {"meta": {"a.json": {"version": [HOSTILE]}}}),
        (Snapshot, {"spec_version": HOSTILE, "meta": {}}),
        (Targets, {"targets": {HOSTILE: {"length": True, "hashes": {"sha256": "00"}}}}),
        (Targets, {"targets": {HOSTILE: {"length": 1, "hashes": {}}}}),
    ],
)
def test_what_nobody_signed_does_not_speak_to_a_terminal(kind: type, fields: dict) -> None:
    common = {"_type": kind.type, "version": 1, "spec_version": "1.0.31"}
    signed = {**common, "expires": "2030-01-01T00:00:00Z", **fields}
    with pytest.raises(FormatError) as caught:
        parse_metadata(dump({"signatures": [], "signed": signed}), kind, "role")
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key_ids", ["abc", [1], None, ["a", "a"], ["k"] * 2, [[]]])
def test_key_ids_are_a_list_of_distinct_strings(key_ids: object) -> None:
    document = root_document()
    document["signed"]["roles"]["targets"]["keyids"] = key_ids
    with pytest.raises(FormatError):
        parse_metadata(dump(document), Root, "root")


def test_other_fields_are_checked_too() -> None:
    document = root_document()
    for change in (
        {"consistent_snapshot": "no"},
        {"expires": "2026-02-30T00:00:00Z"},
        {"expires": "soon"},
        {"spec_version": "2.0.0"},
        {"_type": "timestamp"},
        {"roles": {}},
        {"keys": []},
    ):
        broken = deepcopy(document)
        broken["signed"].update(change)
        with pytest.raises(FormatError):
            parse_metadata(dump(broken), Root, "root")


def test_another_role_is_not_taken_for_this_one() -> None:
    raw = Repository().files["metadata/timestamp.json"]
    with pytest.raises(FormatError, match="another role"):
        parse_metadata(raw, Snapshot, "snapshot")


# --- signers


def signed_by(signers: list[CryptoSigner]) -> Unverified[Timestamp]:
    metadata = Metadata(Repository().timestamp)
    for signer in signers:
        metadata.sign(signer, append=True)
    return parse_metadata(metadata.to_bytes(), Timestamp, "timestamp")


def root_for_timestamp(*keys: SSlibKey, threshold: int = 1) -> Root:
    root = Root()
    for key in keys:
        root.add_key(key, "timestamp")
    root.roles["timestamp"].threshold = threshold
    return root


def under_id(signer: CryptoSigner, key_id: str, public: str | None = None) -> CryptoSigner:
    """The same private key, listed under another key id (and another spelling)."""
    key = deepcopy(signer.public_key)
    key.keyid = key_id
    if public is not None:
        key.keyval["public"] = public
    return CryptoSigner(signer._private_key, key)


MAKERS = {
    "ed25519": CryptoSigner.generate_ed25519,
    "ecdsa": CryptoSigner.generate_ecdsa,
    "rsa": CryptoSigner.generate_rsa,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_each_kind_of_key_signs(kind: str) -> None:
    signer, stranger = MAKERS[kind](), MAKERS[kind]()
    root = root_for_timestamp(signer.public_key)
    check_signed(root, "timestamp", signed_by([signer, stranger]))
    with pytest.raises(SignatureError):
        check_signed(root, "timestamp", signed_by([stranger]))
    with pytest.raises(SignatureError):
        check_signed(root, "timestamp", signed_by([]))


@pytest.mark.parametrize("kind", MAKERS)
def test_one_public_key_under_two_key_ids_counts_once(kind: str) -> None:
    """python-tuf 7.0.1 counts it twice: the stolen half of a 2-of-2 would be enough."""
    signer = MAKERS[kind]()
    public = signer.public_key.keyval["public"]
    spelled = public.upper() if kind == "ed25519" else public.replace("\n", "\r\n") + "\n"
    twins = [under_id(signer, "a"), under_id(signer, "b"), under_id(signer, "c", spelled)]
    root = root_for_timestamp(*(twin.public_key for twin in twins), threshold=2)
    metadata = signed_by(twins)
    root.verify_delegate("timestamp", metadata.payload, dict(metadata.signatures))  # the library
    with pytest.raises(SignatureError) as caught:
        check_signed(root, "timestamp", metadata)
    assert caught.value.got == 1
    other = MAKERS["ed25519"]()
    root.add_key(other.public_key, "timestamp")
    check_signed(root, "timestamp", signed_by([*twins, other]))


def test_one_rsa_key_under_two_schemes_counts_once() -> None:
    pss = CryptoSigner.generate_rsa(scheme="rsassa-pss-sha256")
    key = deepcopy(pss.public_key)
    key.keyid, key.scheme = "b", "rsa-pkcs1v15-sha256"
    root = root_for_timestamp(pss.public_key, key, threshold=2)
    with pytest.raises(SignatureError):
        check_signed(root, "timestamp", signed_by([pss, CryptoSigner(pss._private_key, key)]))


@pytest.mark.parametrize("signature", ["", "00", "zz", "0" * 126, "0" * 128, "0" * 130, "é"])
def test_a_signature_that_is_none_does_not_count(signature: str) -> None:
    signer = CryptoSigner.generate_ed25519()
    root = root_for_timestamp(signer.public_key)
    metadata = signed_by([signer])
    next(iter(metadata.signatures.values())).signature = signature
    with pytest.raises(SignatureError):
        check_signed(root, "timestamp", metadata)


def test_a_signature_with_s_above_the_group_order_does_not_count() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signer = CryptoSigner.generate_ed25519()
    root = root_for_timestamp(signer.public_key)
    metadata = signed_by([signer])
    signature = next(iter(metadata.signatures.values()))
    raw = bytes.fromhex(signature.signature)
    s = int.from_bytes(raw[32:], "little") + order
    signature.signature = (raw[:32] + s.to_bytes(32, "little")).hex()
    with pytest.raises(SignatureError):
        check_signed(root, "timestamp", metadata)


def test_the_bytes_received_must_be_signed_not_what_they_mean() -> None:
    """tuf.api reads a version of null as 1, and would find the signature valid."""
    repository = Repository()
    document = json.loads(repository.files["metadata/timestamp.json"])
    document["signed"]["version"] = None
    metadata = Metadata.from_dict(deepcopy(document))
    repository.root.verify_delegate("timestamp", metadata.signed_bytes, metadata.signatures)
    with pytest.raises(SignatureError):
        check_signed(
            repository.root, "timestamp", parse_metadata(dump(document), Timestamp, "timestamp")
        )


def test_a_role_that_nobody_delegates_has_no_signers() -> None:
    signer = CryptoSigner.generate_ed25519()
    root = root_for_timestamp(signer.public_key)
    with pytest.raises(SignatureError):
        check_signed(root, "deltas", signed_by([signer]))


def edwards_add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = first, second
    cross = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + cross, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - cross, -1, P) % P,
    )


def small_order_points() -> list[tuple[int, int]]:
    """All points whose order divides 8, found by arithmetic: multiply by the group's prime order."""
    order = 2**252 + 27742317777372353535851937790883648493
    points: set[tuple[int, int]] = set()
    y = 2
    while len(points) < 8:
        y += 1
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        if x * x % P != square:
            continue
        result, base, bits = (0, 1), (x, y), order
        while bits:
            if bits & 1:
                result = edwards_add(result, base)
            base, bits = edwards_add(base, base), bits >> 1
        points.add(result)
    return sorted(points)


def test_keys_of_small_order_do_not_count_in_any_spelling() -> None:
    """With the identity as a key, R = s*B is a valid signature of any message: forge one."""
    spellings = set()
    for x, y in small_order_points():
        for spelled_y in (y, y + P):
            if spelled_y < 2**255:
                for sign in (x & 1, 1 - (x & 1)):
                    spellings.add((spelled_y | sign << 255).to_bytes(32, "little"))
    assert len(spellings) >= 14
    for raw in spellings:
        key = SSlibKey("small", "ed25519", "ed25519", {"public": raw.hex()})
        assert key_identity(key) is None, raw.hex()


def test_a_forged_signature_of_the_identity_key_is_refused() -> None:
    identity = (1).to_bytes(32, "little")
    key = SSlibKey("identity", "ed25519", "ed25519", {"public": identity.hex()})
    root = root_for_timestamp(key)
    # R = identity and s = 0: s*B = R + k*A for every k, whatever the message.
    forged = {"keyid": "identity", "sig": (identity + bytes(32)).hex()}
    document = {"signed": Repository().timestamp.to_dict(), "signatures": [forged]}
    with pytest.raises(Rejected):
        check_signed(root, "timestamp", parse_metadata(dump(document), Timestamp, "timestamp"))


@pytest.mark.parametrize(
    ("kind", "scheme", "public"),
    [
        ("ed25519", "ed25519", "00" * 31),
        ("ed25519", "ed25519", "not hex"),
        ("rsa", "rsassa-pss-sha256", "no PEM"),
        ("ecdsa", "ecdsa-sha2-nistp256", ""),
    ],
)
def test_bytes_that_are_no_key_do_not_count(kind: str, scheme: str, public: str) -> None:
    assert key_identity(SSlibKey("k", kind, scheme, {"public": public})) is None
