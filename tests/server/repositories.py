"""Small repositories for the publisher's tests."""

from datetime import UTC, datetime
from pathlib import Path

from slipstream.server.disk import Disk
from slipstream.server.keys import no_passphrase
from slipstream.server.policy import RolePolicy
from slipstream.server.repo import Repository, init_repo

# The reference client looks at the real clock, so tests that use it begin now.
NOW = datetime.now(UTC)
SALT = bytes(range(32))
# One key each where the number does not matter: making and loading keys is most of a test's time.
ONE_KEY_EACH = {
    "root": RolePolicy(1, 1, 730),
    "targets": RolePolicy(1, 1, 365),
    "snapshot": RolePolicy(1, 1, 30),
    "timestamp": RolePolicy(1, 1, 7),
    "deltas": RolePolicy(1, 1, 30),
}


def make_repo(folder: Path, *, disk: Disk | None = None, **roles: RolePolicy) -> Repository:
    """A repository at folder/repo, with keys that need no passphrase."""
    return init_repo(
        folder / "repo",
        "gateway",
        passphrases=no_passphrase,
        now=NOW,
        roles={**ONE_KEY_EACH, **roles},
        salt=SALT,
        disk=disk,
    )


def public_files(repo: Repository) -> dict[str, bytes]:
    """All that the repository serves."""
    files = sorted(path for path in repo.public.rglob("*") if path.is_file())
    return {str(path.relative_to(repo.public)): path.read_bytes() for path in files}
