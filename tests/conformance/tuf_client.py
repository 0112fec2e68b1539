#!/usr/bin/env python3
"""A TUF client with the command line of the public tuf-conformance suite, around the device's code.

    tuf_client.py --metadata-dir D init ROOT
    tuf_client.py --metadata-dir D --metadata-url U refresh
    tuf_client.py --metadata-dir D --metadata-url U --target-name T... --target-base-url B \
                  --target-dir O download

Exit 0 or 1. What decides is slipstream.installer.refresh, slipstream.delta.trust and HttpFetcher;
this file only parses arguments and keeps artifacts. time() is the only clock.
"""

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from slipstream.delta.durable import write_durably
from slipstream.delta.errors import DigestMismatch, SlipstreamError, UsageError
from slipstream.delta.limits import GIB
from slipstream.delta.trust import TrustedSet
from slipstream.installer.clock import SystemClock
from slipstream.installer.fetch import HttpFetcher
from slipstream.installer.metadata_store import MetadataStore
from slipstream.installer.refresh import Layout, fetch_target, find_target, refresh

# Both URLs of the command line are the fetcher's root: no folder below them.
HERE = Layout(metadata="", targets="")
ARTIFACT_BYTES_MAX = GIB


def main() -> int:
    """Run one command of the suite."""
    arguments = parse_arguments()
    try:
        match arguments.command:
            case "init":
                init(arguments.metadata_dir, arguments.root)
            case "refresh":
                asyncio.run(run_refresh(arguments))
            case "download":
                asyncio.run(run_download(arguments))
    except (SlipstreamError, OSError) as error:
        print(f"tuf_client: {error}", file=sys.stderr)
        return 1
    return 0


def init(folder: Path, root: Path) -> None:
    """Keep the first root: a device has it in its image."""
    raw = root.read_bytes()
    TrustedSet(raw, read_time())
    first = first_root(folder)
    first.parent.mkdir(parents=True, exist_ok=True)
    write_durably(first, raw)
    MetadataStore(folder).write("root", raw)


async def run_refresh(arguments: argparse.Namespace) -> None:
    async with HttpFetcher(with_slash(arguments.metadata_url), clock=SystemClock()) as fetcher:
        await refresh_from(fetcher, arguments.metadata_dir)


async def run_download(arguments: argparse.Namespace) -> None:
    clock = SystemClock()
    if not arguments.target_name:
        raise UsageError("download needs --target-name")
    async with (
        HttpFetcher(with_slash(arguments.metadata_url), clock=clock) as metadata,
        HttpFetcher(with_slash(arguments.target_base_url), clock=clock) as artifacts,
    ):
        store, trusted = await refresh_from(metadata, arguments.metadata_dir)
        for name in arguments.target_name:
            # Delegated roles come from the one server, the artifact from the other.
            target = await find_target(metadata, store, trusted, name, layout=HERE, say=say)
            kept = arguments.target_dir / quote(name, safe="")
            if target is not None and kept.is_file():
                try:
                    target.check(kept.read_bytes())
                except DigestMismatch:
                    pass
                else:
                    continue
            raw = await fetch_target(
                artifacts, store, trusted, name, size_max=ARTIFACT_BYTES_MAX, layout=HERE, say=say
            )
            arguments.target_dir.mkdir(parents=True, exist_ok=True)
            write_durably(kept, raw)


async def refresh_from(fetcher: HttpFetcher, folder: Path) -> tuple[MetadataStore, TrustedSet]:
    store = MetadataStore(folder)
    root = first_root(folder).read_bytes()
    return store, await refresh(fetcher, store, root, read_time(), layout=HERE, say=say)


def first_root(folder: Path) -> Path:
    return folder / "first" / "root.json"


def read_time() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def with_slash(url: str) -> str:
    return url if url.endswith("/") else url + "/"


def say(text: str) -> None:
    print(f"tuf_client: {text}", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="TUF client under test: the device's own code")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
