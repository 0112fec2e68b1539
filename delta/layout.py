"""Where everything stands in a published repository: target paths and blob names.

Publisher and device build these names from values and never parse them back. Paths are relative to
the repository's `public/` folder for blobs, and TUF target paths for the rest
(docs/architecture.md, "What a repository looks like").
"""

from slipstream.delta.digest import Digest

DELTAS_ROLE = "deltas"
# TUF's path patterns match segment by segment, so three stars are exactly <V>/<I>/<source>.delta.
DELTAS_PATTERN = "deltas/*/*/*"


def manifest_path(release: str) -> str:
    """TUF target path of a release's manifest."""
    return f"releases/{release}/manifest.json"


def full_path(release: str, image: str) -> str:
    """TUF target path of the index of an image's full payload."""
    return f"releases/{release}/{image}.full"


def artifact_path(release: str, name: str) -> str:
    """TUF target path of the description of a release's artifact."""
    return f"releases/{release}/{name}.artifact"


def delta_path(release: str, image: str, source_root: Digest) -> str:
    """TUF target path of the index of the delta from the image with `source_root` to `release`.

    16 digits name it; the whole root stands in the entry's custom (`DeltaEntry.source_root`).
    """
    return f"deltas/{release}/{image}/{source_root.hex[:16]}.delta"


def payload_blob(index: Digest) -> str:
    """Path of the payload whose index has this digest."""
    return f"blobs/{index}.payload"


def artifact_blob(digest: Digest) -> str:
    """Path of the artifact with this SHA-256."""
    return f"blobs/{digest}.artifact"


def chunks_blob(chunks: Digest) -> str:
    """Path of the chunk list with this digest."""
    return f"blobs/{chunks}.chunks"
