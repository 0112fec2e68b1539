"""Names in a repository are those that docs/architecture.md promises."""

from tuf.api.metadata import DelegatedRole

from slipstream.delta.digest import Digest
from slipstream.delta.layout import (
    DELTAS_PATTERN,
    DELTAS_ROLE,
    chunks_blob,
    delta_path,
    full_path,
    manifest_path,
    payload_blob,
)

ROOT = Digest(bytes(range(32)))


def test_names():
    assert manifest_path("2.0") == "releases/2.0/manifest.json"
    assert full_path("2.0", "rootfs") == "releases/2.0/rootfs.full"
    assert delta_path("2.0", "rootfs", ROOT) == "deltas/2.0/rootfs/0001020304050607.delta"
    assert payload_blob(ROOT) == f"blobs/{ROOT.hex}.payload"
    assert chunks_blob(ROOT) == f"blobs/{ROOT.hex}.chunks"


def test_the_online_role_can_sign_deltas_and_no_release():
    role = DelegatedRole(DELTAS_ROLE, ["k"], 1, terminating=True, paths=[DELTAS_PATTERN])
    assert role.is_delegated_path(delta_path("2.0", "rootfs", ROOT))
    assert not role.is_delegated_path(manifest_path("2.0"))
    assert not role.is_delegated_path(full_path("2.0", "rootfs"))
