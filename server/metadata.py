"""TUF metadata as values: made, counted up, signed, checked, dumped.

No files, no clock, and no idea of where keys live: signers come as arguments, so metadata can be
signed on another machine, by a token, or by several people one after the other. TUF 1.0, consistent
snapshots; the layout of roles is docs/architecture.md's and design decisions are docs/adr/0006.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from slipstream.delta import metadata_rules
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.layout import DELTAS_PATTERN, DELTAS_ROLE
from slipstream.delta.limits import (
    COUNTER_MAX,
    ROOT_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from slipstream.delta.metadata_rules import Unverified

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

_BYTES_MAX = {
    "root": ROOT_BYTES_MAX,
    "timestamp": TIMESTAMP_BYTES_MAX,
    "snapshot": SNAPSHOT_BYTES_MAX,
    "targets": TARGETS_BYTES_MAX,
}


def first_root(keys: Mapping[str, Sequence[Key]], thresholds: Mapping[str, int]) -> Root:
    """Root metadata version 1, not yet signed, for the four top-level roles."""
    root = Root(version=1, consistent_snapshot=True)
    for role in root.roles:
        for key in keys[role]:
            root.add_key(key, role)
        root.roles[role].threshold = thresholds[role]
    return root


def first_targets(delta_keys: Sequence[Key], delta_threshold: int) -> Targets:
    """Targets metadata version 1: no target yet, and deltas delegated to the online role.

    Terminating: what the deltas role does not know under its paths, nobody does.
    """
    role = DelegatedRole(
        DELTAS_ROLE,
        keyids=[key.keyid for key in delta_keys],
        threshold=delta_threshold,
        terminating=True,
        paths=[DELTAS_PATTERN],
    )
    keys = {key.keyid: key for key in delta_keys}
    return Targets(version=1, delegations=Delegations(keys, {DELTAS_ROLE: role}))


def target_file(path: str, data: bytes, custom: Mapping[str, str | int]) -> TargetFile:
    """The entry of a target: length, SHA-256, and our own fields."""
    return TargetFile(
        len(data), {"sha256": Digest.of(data).hex}, path, unrecognized_fields={"custom": custom}
    )


def meta_file(version: int, raw: bytes) -> MetaFile:
    """The entry of a metadata file, pinned by length and SHA-256: checked before it is parsed."""
    return MetaFile(version, len(raw), {"sha256": Digest.of(raw).hex})


def renewed(signed: S, *, version: int, now: datetime, days: int) -> S:
    """A copy with its next version and a new expiry date."""
    if not signed.version <= version <= COUNTER_MAX:
        raise FormatError(
            f"version of {signed.type} metadata",
            expected=f"{signed.version}..{COUNTER_MAX}",
            got=version,
        )
    copy = deepcopy(signed)
    copy.version = version
    copy.expires = (now + timedelta(days=days)).replace(microsecond=0)
    return copy


def sign(signed: S, signers: Iterable[Signer]) -> Metadata[S]:
    """Metadata with one signature from each signer. Whether they are enough: check_signed."""
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def check_threshold(name: str, role: Role, signers: Sequence[Signer]) -> None:
    """UsageError unless the signers meet the role's threshold: asked before hours of work."""
    distinct = {signer.public_key.keyid for signer in signers} & set(role.keyids)
    if len(distinct) < role.threshold:
        raise UsageError(
            f"not enough keys to sign {name} metadata",
            expected=f"{role.threshold} of {len(role.keyids)}",
            got=f"{len(distinct)}",
            hint=f"Bring the {name} key files, or name the folder that holds them",
        )


def check_signed(delegator: Root | Targets, name: str, metadata: Metadata[S]) -> None:
    """SignatureError unless `metadata` is signed as a device demands of the role `name`."""
    unverified = Unverified(metadata.signed, metadata.signatures, metadata.signed_bytes)
    metadata_rules.check_signed(delegator, name, unverified)


def check_pinned(metadata: Metadata[S], raw: bytes, expected: MetaFile, where: object) -> None:
    """FormatError unless the bytes and their version are those that the snapshot or timestamp says."""
    try:
        expected.verify_length_and_hashes(raw)
    except RepositoryError as error:
        raise FormatError(f"metadata is not what was signed: {error}", where=where) from error
    if metadata.signed.version != expected.version:
        raise FormatError(
            "metadata of another version",
            where=where,
            expected=expected.version,
            got=metadata.signed.version,
        )


def dump_metadata(metadata: Metadata[S]) -> bytes:
    """The bytes that are served. FormatError for more than a client takes."""
    raw = JSONSerializer(compact=True).serialize(metadata)
    most = _BYTES_MAX[metadata.signed.type]
    if len(raw) > most:
        raise FormatError(
            f"{metadata.signed.type} metadata too large for clients",
            expected=f"at most {most} bytes",
            got=len(raw),
        )
    return raw


def parse_metadata(raw: bytes, kind: type[S], where: object) -> Metadata[S]:
    """Metadata of one type, read by the device's rules; FormatError for anything else.

    Says nothing about signatures. What tuf.api understood is what will be signed again, so it must
    be what stands there.
    """
    found = metadata_rules.parse_metadata(raw, kind, str(where))
    metadata = Metadata(found.signed, dict(found.signatures))
    if metadata.signed_bytes != found.payload:
        raise FormatError("metadata that can be read in two ways", where=where)
    return metadata
