"""What one piece of TUF metadata must be: strict JSON, sane numbers, enough distinct signers.

The rules that hold for every role, without order between roles (that is trust.py). Built on
tuf.api for the metadata classes and on securesystemslib for the signature schemes; both are
imported for this here and in trust.py only, and their errors end here as FormatError and
SignatureError. Stricter than tuf.api where it matters:

- one public key counts once, whatever number of key ids lists it;
- keys of small order (for which anyone can make signatures) count never;
- duplicate JSON keys, floats, NaN, numbers beyond 63 bits and deep nesting are refused;
- versions, thresholds and lengths are bounded integers (a JSON `true` is not a 1).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signature, SSlibKey
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from slipstream.delta.errors import FormatError, SignatureError
from slipstream.delta.limits import COUNTER_MAX, JSON_DEPTH_MAX, JSON_DIGITS_MAX, ROLE_KEYS_MAX

SignedKind = TypeVar("SignedKind", bound=Signed)
Delegator = Root | Targets

# A string as a whole, or one bracket. The closing quote is optional and the group possessive, so
# that hostile text is scanned once: 5 MB take about 0.1 s, whatever they hold.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)

_ED25519_PRIME = 2**255 - 19
_ED25519_ORDER_8_Y = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# y coordinates of the eight points whose order divides 8 (both signs of x belong to each).
_ED25519_SMALL_ORDER_Y = frozenset(
    {0, 1, _ED25519_PRIME - 1, _ED25519_ORDER_8_Y, _ED25519_PRIME - _ED25519_ORDER_8_Y}
)


@dataclass(frozen=True, slots=True)
class Unverified(Generic[SignedKind]):
    """Metadata that parsed, and the bytes that its signatures must be for.

    `payload` is the canonical form of what was received. (tuf.api signs and verifies what it
    understood instead: there a version of null reads, and verifies, as 1.)
    """

    signed: SignedKind
    signatures: Mapping[str, Signature]
    payload: bytes


def parse_metadata(raw: bytes, kind: type[SignedKind], where: str) -> Unverified[SignedKind]:
    """Metadata of the given kind (Root, Timestamp, Snapshot or Targets), unverified.

    `where` names the role in messages. Raises FormatError for everything else than sound
    metadata of that kind.
    """
    document = _parse_json(raw, where)
    try:
        # First: from_dict empties the document. None is returned only to those who ask for a stream.
        payload = (encode_canonical(document["signed"]) or "").encode()
        metadata = Metadata.from_dict(document)
    except Exception as error:
        # tuf.api lets ValueError, KeyError, TypeError, AttributeError through, by what is missing.
        raise FormatError("not TUF metadata", where=where, got=_shown(error)) from error
    if not isinstance(metadata.signed, kind):
        raise FormatError(
            "metadata of another role", where=where, expected=kind.type, got=metadata.signed.type
        )
    _check_numbers(metadata.signed, where)
    return Unverified(metadata.signed, metadata.signatures, payload)


def check_signed(delegator: Delegator, role_name: str, metadata: Unverified[Any]) -> None:
    """Raise SignatureError unless the role's threshold of distinct public keys signed.

    Keys and threshold are those that `delegator` names for the role. Signatures of other keys
    are not looked at.
    """
    try:
        role = delegator.get_delegated_role(role_name)
    except ValueError as error:
        raise SignatureError("nobody delegates to this role", where=role_name) from error
    signers: set[bytes] = set()
    for key_id in role.keyids:
        signature = metadata.signatures.get(key_id)
        try:
            key = delegator.get_key(key_id)
        except ValueError:
            continue  # a key id without its key: nothing to count
        identity = key_identity(key)
        if signature is None or identity is None or identity in signers:
            continue
        try:
            key.verify_signature(signature, metadata.payload)
        except UnverifiedSignatureError:
            continue
        signers.add(identity)
    if len(signers) < role.threshold:
        raise SignatureError(
            "too few valid signatures of distinct keys",
            where=role_name,
            expected=f"{role.threshold} of {len(role.keyids)}",
            got=len(signers),
        )


def key_identity(key: Key) -> bytes | None:
    """The public key itself, the same bytes however it is spelled; None if it must not count.

    None: a kind that is not verified here (GPG, Sigstore and others run foreign code or need the
    network), bytes that are not a key, and Ed25519 points of small order.
    """
    if not isinstance(key, SSlibKey):
        return None
    text = key.keyval["public"]
    try:
        if key.keytype == "ed25519":
            return _ed25519_identity(bytes.fromhex(text))
        return load_pem_public_key(text.encode()).public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    except Exception:
        # cryptography raises ValueError, UnsupportedAlgorithm and more; all mean: not a key.
        return None


def role_identities(root: Root, role_name: str) -> frozenset[bytes]:
    """The public keys that may sign for a top-level role."""
    identities = (
        key_identity(root.keys[key_id])
        for key_id in root.roles[role_name].keyids
        if key_id in root.keys
    )
    return frozenset(identity for identity in identities if identity is not None)


def _ed25519_identity(raw: bytes) -> bytes | None:
    # RFC 8032, 5.1.3: 255 bits of y, one bit sign of x. y at or above the prime is a second
    # spelling of a small y: refused, so that one key has one identity.
    if len(raw) != 32:
        return None
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if y >= _ED25519_PRIME or y in _ED25519_SMALL_ORDER_Y:
        return None
    return raw


def _parse_json(raw: bytes, where: str) -> dict[str, Any]:
    def refuse(reason: str) -> Callable[[str], NoReturn]:
        def raise_format_error(text: str) -> NoReturn:
            raise FormatError(reason, where=where, got=repr(text[:40]))

        return raise_format_error

    def parse_integer(text: str) -> int:
        if len(text) > JSON_DIGITS_MAX:
            raise FormatError("number too long", where=where, got=f"{len(text)} digits")
        return int(text)

    def parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise FormatError("the same key twice in one JSON object", where=where)
        return result

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=where, got=_shown(error)) from error
    depth = 0
    for token in _TOKEN.finditer(text):
        character = token[0][0]
        if character in "[{":
            depth += 1
            if depth > JSON_DEPTH_MAX:
                raise FormatError("JSON nested too deep", where=where, expected=JSON_DEPTH_MAX)
        elif character != '"':
            depth -= 1
    try:
        document = json.loads(
            text,
            object_pairs_hook=parse_object,
            parse_int=parse_integer,
            parse_float=refuse("a number that is not whole"),
            parse_constant=refuse("not a JSON number"),
        )
    except (ValueError, RecursionError) as error:
        raise FormatError("not JSON", where=where, got=_shown(error)) from error
    if not isinstance(document, dict):
        raise FormatError("not a JSON object", where=where)
    return document


def _check_numbers(signed: Signed, where: str) -> None:
    _check_integer(signed.version, 1, COUNTER_MAX, "version", where)
    match signed:
        case Root():
            if not isinstance(signed.consistent_snapshot, bool | None):
                raise FormatError("consistent_snapshot is neither true nor false", where=where)
            for name, role in signed.roles.items():
                _check_role(role, f"{where}, role {name}")
        case Timestamp():
            _check_meta_file(signed.snapshot_meta, where)
        case Snapshot():
            for name, meta in signed.meta.items():
                _check_meta_file(meta, f"{where}, {_name(name)}")
        case Targets():
            for path, target in signed.targets.items():
                _check_integer(target.length, 0, None, "length", f"{where}, {_name(path)}")
            if signed.delegations is not None:
                roles: list[Role] = list((signed.delegations.roles or {}).values())
                if signed.delegations.succinct_roles is not None:
                    roles.append(signed.delegations.succinct_roles)
                for role in roles:
                    _check_role(role, f"{where}, delegation")
        case _:
            raise FormatError("metadata of no known role", where=where)


def _check_role(role: Role, where: str) -> None:
    _check_integer(role.threshold, 1, ROLE_KEYS_MAX, "threshold", where)
    key_ids: object = role.keyids  # tuf.api does not look: it may be a string, or hold anything
    if not isinstance(key_ids, list) or not all(isinstance(key_id, str) for key_id in key_ids):
        raise FormatError("key ids are not a list of strings", where=where)
    if len(role.keyids) > ROLE_KEYS_MAX:
        raise FormatError(
            "too many keys for one role", where=where, expected=ROLE_KEYS_MAX, got=len(role.keyids)
        )


def _check_meta_file(meta: MetaFile, where: str) -> None:
    _check_integer(meta.version, 1, COUNTER_MAX, "version", where)
    if meta.length is not None:
        _check_integer(meta.length, 0, None, "length", where)


def _check_integer(value: object, low: int, high: int | None, what: str, where: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        raise FormatError(
            f"{what} out of bounds",
            where=where,
            expected=f"{low}..{high or ''}",
            got=repr(value)[:80],
        )


def _name(text: str) -> str:
    # What nobody has signed yet goes into a message cut and quoted: it may hold a terminal's codes.
    return repr(text[:80])


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {repr(str(error)[:200])[1:-1]}"
