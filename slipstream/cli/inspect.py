"""`slipstream inspect`: what a payload, manifest, or metadata file holds, in words or JSON."""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import click
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from slipstream.cli.progress import megabytes
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError, Rejected, UsageError
from slipstream.delta.limits import INDEX_BYTES_MAX, MANIFEST_BYTES_MAX, TARGETS_BYTES_MAX
from slipstream.delta.manifest import FORMAT, Manifest, parse_manifest
from slipstream.delta.payload import (
    INDEX_PREFIX_BYTES,
    MAGIC,
    FrameKind,
    Index,
    parse_index,
    parse_index_size,
)

_BODY = {
    "elsewhere": "not in this file, which is an index alone",
    "sound": "every frame has the digest that the index says; the index itself is known by its digest,"
    " which the release's manifest has",
    "broken": "not what the index says: do not use this file",
}
FRAMES_SHOWN = 12
TOP_SHOWN = 20
IMAGE = click.Path(path_type=Path, dir_okay=False, exists=True)
OUTPUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--frames", is_flag=True, help="List every frame of a payload.")
@click.option(
    "--files", is_flag=True, help="Say which files of --target a payload's bytes are for, and why."
)
@click.option("--target", type=IMAGE, help="With --files: the image that the payload makes.")
@click.option(
    "--source", type=IMAGE, help="With --files: its source. Tells new files from changed ones."
)
@click.option("--full", type=IMAGE, help="With --files: a full payload, to compare with.")
@click.option("--svg", type=OUTPUT, help="With --files: draw them as a treemap to this file.")
@click.option(
    "--top",
    type=click.IntRange(0),
    default=TOP_SHOWN,
    show_default=True,
    help="With --files: how many of the largest are listed.",
)
def inspect(
    file: Path,
    as_json: bool,
    frames: bool,
    files: bool,
    target: Path | None,
    source: Path | None,
    full: Path | None,
    svg: Path | None,
    top: int,
) -> None:
    """Say what FILE holds: a payload (or its index), a release manifest, or TUF metadata.

    What is shown is what the file says of itself; no signature is verified. A payload's body is
    checked against the digests in its index: exit 4 where it is cut short or damaged. With --files
    the images must be those that the payload names.
    """
    if files:
        if target is None:
            raise UsageError(
                "--files needs the image that the payload makes",
                expected="--target IMAGE",
                hint="A payload holds no names of files",
            )
        _explain(file, target, source, full, svg, as_json=as_json, top=top)
        return
    for option, value in (("target", target), ("source", source), ("full", full), ("svg", svg)):
        if value is not None:
            raise UsageError(f"--{option} says nothing without --files", got=value)
    found, fault = describe(file)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found, frames=frames)
    if fault is not None:
        raise fault


def _show(found: dict[str, Any], *, frames: bool) -> None:
    rows = found.pop("frame_rows", [])
    for key, value in found.items():
        click.echo(f"{key.replace('_', ' '):<16} {_words(key, value)}")
    shown = rows if frames else rows[:FRAMES_SHOWN]
    for row in shown:
        click.echo("  " + row)
    if len(rows) > len(shown):
        click.echo(f"  … {len(rows) - len(shown)} more (--frames)")


def _explain(
    payload: Path,
    target: Path,
    source: Path | None,
    full: Path | None,
    svg: Path | None,
    *,
    as_json: bool,
    top: int,
) -> None:
    from slipstream.cli import explain  # noqa: PLC0415 - needs the build extra
    from slipstream.server.account import account_for  # noqa: PLC0415
    from slipstream.server.image import check_output  # noqa: PLC0415

    if svg is not None:
        check_output(svg, (payload, target, source, full), device=False)
    account = account_for(payload, target, source, full)
    if svg is not None:
        svg.write_text(explain.picture(account), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(explain.as_json(account)))
    else:
        for line in explain.in_words(account, top):
            click.echo(line)


def describe(file: Path) -> tuple[dict[str, Any], Rejected | None]:
    """What a file holds, as JSON values, and what is wrong with the body of a payload.

    Raises FormatError when it is none of ours.
    """
    with file.open("rb") as opened:
        prefix = opened.read(INDEX_PREFIX_BYTES)
        size = file.stat().st_size
        if not prefix.lstrip().startswith(b"{"):
            return _describe_payload(prefix, opened, size, file)
        if size > TARGETS_BYTES_MAX:
            raise FormatError(
                "too large for metadata", where=file, expected=TARGETS_BYTES_MAX, got=size
            )
        raw = prefix + opened.read()
    if FORMAT.encode() in raw and len(raw) <= MANIFEST_BYTES_MAX:
        return _describe_manifest(parse_manifest(raw), raw), None
    try:
        return _describe_metadata(Metadata[Any].from_bytes(raw)), None
    except DeserializationError as error:
        raise FormatError(
            "neither payload, manifest, nor TUF metadata", where=file, got="other JSON, or none"
        ) from error


def _describe_payload(
    prefix: bytes, opened: BinaryIO, size: int, file: Path
) -> tuple[dict[str, Any], Rejected | None]:
    try:
        index_size = parse_index_size(prefix)
    except Rejected as error:
        if prefix.startswith(MAGIC):
            raise error.at(file) from None
        raise FormatError(
            "neither payload, manifest, nor TUF metadata",
            where=file,
            expected=f"magic {MAGIC.hex()}, or JSON",
            got=prefix[: len(MAGIC)].hex() or "nothing",
        ) from error
    assert index_size <= INDEX_BYTES_MAX
    if size < index_size:
        raise FormatError(
            "payload cut short within its index",
            where=file,
            expected=f"{index_size} bytes of index",
            got=size,
        )
    try:
        index = parse_index((prefix + opened.read(index_size - len(prefix)))[:index_size])
    except Rejected as error:
        raise FormatError(f"index of the payload is broken: {error}", where=file) from error
    is_alone = size == index_size and index.body_size > 0
    fault = None if is_alone else _body_fault(index, opened, size, file)
    found: dict[str, Any] = {
        "kind": "payload index" if is_alone else "payload",
        "type": "full" if index.source_digest is None else "delta",
        "index": index.digest.hex,
        "index_bytes": index_size,
        "payload_bytes": index_size + index.body_size,
        "file_bytes": size,
        "body": "elsewhere" if is_alone else "sound" if fault is None else "broken",
        "source_bytes": index.source_size,
        "source_sha256": index.source_digest.hex if index.source_digest else None,
        "target_bytes": index.target_size,
        "target_sha256": index.target_digest.hex,
        "memory_bytes": index.memory_bytes,
        "frames": _frame_totals(index),
    }
    found["frame_rows"] = [
        f"{n:5}  {frame.kind.name.lower():4}  target {frame.target.offset:>12} +{frame.target.size:<9}"
        f" encoded {frame.encoded.size:>8}  sources {len(frame.sources)}"
        for n, frame in enumerate(index.frames)
    ]
    return found, fault


def _body_fault(index: Index, opened: BinaryIO, size: int, file: Path) -> Rejected | None:
    """What is wrong with the body, which `opened` stands before; None where every frame is as the
    index says."""
    if size != index.payload_size:
        return FormatError(
            "payload cut short" if size < index.payload_size else "payload longer than it says",
            where=file,
            expected=f"{index.payload_size} bytes",
            got=size,
        )
    for number, frame in enumerate(index.frames):
        encoded = opened.read(frame.encoded.size)
        got = Digest.of(encoded)
        if frame.digest is not None and got != frame.digest:
            return DigestMismatch(
                f"frame {number} of the payload is damaged",
                where=file,
                expected=f"SHA-256 {frame.digest}",
                got=got,
            )
    return None


def _frame_totals(index: Index) -> dict[str, dict[str, int]]:
    counts: Counter[FrameKind] = Counter()
    target: Counter[FrameKind] = Counter()
    encoded: Counter[FrameKind] = Counter()
    for frame in index.frames:
        counts[frame.kind] += 1
        target[frame.kind] += frame.target.size
        encoded[frame.kind] += frame.encoded.size
    return {
        kind.name.lower(): {
            "count": counts[kind],
            "target_bytes": target[kind],
            "encoded_bytes": encoded[kind],
        }
        for kind in FrameKind
        if counts[kind]
    }


def _describe_manifest(manifest: Manifest, raw: bytes) -> dict[str, Any]:
    return {
        "kind": "release manifest",
        "product": manifest.product,
        "release": manifest.release,
        "counter": manifest.counter,
        "floor": manifest.floor,
        "channel": manifest.channel,
        "hardware": list(manifest.hardware),
        "issued": manifest.issued,
        "notes": manifest.notes,
        "images": {
            image.name: {
                "place": image.place.value,
                "image_bytes": image.tree.image_size,
                "root": image.tree.root.hex,
                "full_payload_bytes": image.full.payload_size,
            }
            for image in manifest.images
        },
        "boot": {"title": manifest.boot.title, "options": manifest.boot.options},
        "manifest_bytes": len(raw),
    }


def _describe_metadata(metadata: Metadata[Any]) -> dict[str, Any]:
    signed = metadata.signed
    found: dict[str, Any] = {
        "kind": f"TUF {signed.type}",
        "version": signed.version,
        "expires": signed.expires.isoformat(),
        "signatures": list(metadata.signatures),
    }
    match signed:
        case Root():
            found["consistent_snapshot"] = signed.consistent_snapshot
            found["roles"] = {
                name: {"threshold": role.threshold, "keys": role.keyids}
                for name, role in signed.roles.items()
            }
        case Timestamp():
            found["snapshot_version"] = signed.snapshot_meta.version
        case Snapshot():
            found["meta"] = {name: meta.version for name, meta in sorted(signed.meta.items())}
        case Targets():
            found["targets"] = {
                path: {"length": target.length, "custom": target.custom}
                for path, target in signed.targets.items()
            }
            roles = signed.delegations.roles if signed.delegations else None
            found["delegations"] = sorted(roles or {})
        case _:
            raise FormatError("unknown TUF metadata", got=signed.type)
    return found


def _words(key: str, value: object) -> str:
    if value is None:
        return "none"
    if key == "body":
        return _BODY[str(value)]
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value} ({megabytes(value)})"
    if key == "issued" and isinstance(value, int):
        return datetime.fromtimestamp(value).astimezone().isoformat()
    if isinstance(value, dict):
        lines = [f"{name}: {_inline(item)}" for name, item in value.items()]
        return ("\n" + " " * 17).join(lines) or "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {item}" for name, item in value.items())
    return str(value)
