"""The peers: every other open way to carry an image to a device that has an earlier one.

Each with the settings that make its payload smallest, as far as it stays usable: source windows as
large as the image, the strongest compressor.
"""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benches.contest import Contender
from benches.delivery import fetched_bytes

MB = 1_000_000


def window_bytes(source: Path) -> int:
    """xdelta3's source window: the whole image, as far as it can (2 GiB)."""
    size = source.stat().st_size
    return min(1 << 31, max(1 << 20, 1 << (size - 1).bit_length()))


def _debian(package: str) -> Callable[[], str]:
    def version() -> str:
        words = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", package]
        status, _, version = subprocess.run(
            words, capture_output=True, text=True, check=True
        ).stdout.partition(" ")
        if status != "installed":
            raise FileNotFoundError(package)
        return f"{package} {version}"

    return version


def _python(package: str) -> Callable[[], str]:
    return lambda: f"{package} {importlib.metadata.version(package)}"


def _shell(script: str, *words: Path) -> list[str]:
    return ["sh", "-c", script, "sh", *map(str, words)]


def _module(name: str, *words: object) -> list[str]:
    return [sys.executable, "-m", f"benches.{name}", *map(str, words)]


PEERS = {
    peer.name: peer
    for peer in (
        Contender(
            "xdelta3",
            "xdelta3 -9 -S lzma",
            _debian("xdelta3"),
            lambda source, target, payload: [
                *f"xdelta3 -e -f -9 -S lzma -B {window_bytes(source)} -s".split(),
                *map(str, (source, target, payload)),
            ],
            lambda source, payload, made: [
                *f"xdelta3 -d -f -B {window_bytes(source)} -s".split(),
                *map(str, (source, payload, made)),
            ],
            quick=True,
            note="source window as large as the image",
        ),
        Contender(
            "zstd",
            "zstd -19 --long=31 --patch-from",
            _debian("zstd"),
            lambda source, target, payload: [
                *["zstd", "-q", "-f", "--ultra", "-19", "--long=31"],
                *(f"--patch-from={source}", str(target), "-o", str(payload)),
            ],
            lambda source, payload, made: [
                *["zstd", "-q", "-f", "-d", "--long=31"],
                *(f"--patch-from={source}", str(payload), "-o", str(made)),
            ],
        ),
        Contender(
            "bsdiff",
            "bsdiff 4.3",
            _debian("bsdiff"),
            lambda source, target, payload: ["bsdiff", *map(str, (source, target, payload))],
            lambda source, payload, made: ["bspatch", *map(str, (source, made, payload))],
            image_max_bytes=100 * MB,  # 17 bytes of memory and 3 to 5 us for each byte of source
        ),
        Contender(
            "hdiffpatch",
            "HDiffPatch, LZMA2",
            _python("hdiffpatch"),
            lambda source, target, payload: _module(
                "hdiffpatch_peer", "encode", source, target, payload
            ),
            lambda source, payload, made: _module(
                "hdiffpatch_peer", "decode", source, payload, made
            ),
            note="in memory, which finds more than its streaming mode; LZMA2 level 9, 64 MiB window",
        ),
        Contender(
            "zchunk",
            "zchunk",
            _debian("zchunk"),
            lambda source, target, payload: _module(
                "delivery", "zchunk-encode", source, target, payload
            ),
            lambda source, payload, made: _module(
                "delivery", "zchunk-decode", source, payload, made
            ),
            payload_bytes=fetched_bytes,
            note="bytes by zck_delta_size; encode makes the files of both releases, decode unpacks "
            "the whole target as if it were fetched",
        ),
        Contender(
            "casync",
            "casync",
            _debian("casync"),
            lambda source, target, payload: _module(
                "delivery", "casync-encode", source, target, payload
            ),
            lambda source, payload, made: _module(
                "delivery", "casync-decode", source, payload, made
            ),
            payload_bytes=fetched_bytes,
            note="index and compressed chunks that the source has not; encode makes the stores of "
            "both releases",
        ),
        Contender(
            "blocks",
            "4 KiB block index (RAUC)",
            _python("zstandard"),
            lambda source, target, payload: _module("blocks", "encode", source, target, payload),
            lambda source, payload, made: _module("blocks", "decode", source, payload, made),
            payload_bytes=lambda payload: (payload / "data").stat().st_size,
            note="blocks that the source has not, zstd -19 in groups of 64 KiB; its index, 32 bytes "
            "for each 4 KiB of the target (0.8 % of the image), is not counted",
        ),
        Contender(
            "xz",
            "full image, xz -9e",
            _debian("xz-utils"),
            lambda _source, target, payload: _shell('xz -9e -T1 -c "$1" >"$2"', target, payload),
            lambda _source, payload, made: _shell('xz -dc "$1" >"$2"', payload, made),
            note="solid; needs no source",
        ),
    )
}
