"""A TUF repository in memory, for tests: publishes, lies and rots on demand.

    repository = Repository()
    repository.add_target("targets", "a/b", b"content")
    repository.publish("targets", "snapshot", "timestamp")
    await refresh(MemoryFetcher(repository), ...)

`files` holds what the network would serve, below "metadata/" and "targets/". Every attribute of
the unsigned metadata (`repository.root`, ...) may be edited before publish.
"""

from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError, Unavailable
from slipstream.installer.fetch import NotFound

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")
# One set of keys for all tests: making them is slower than using them.
KEYS = tuple(CryptoSigner.generate_ed25519() for _ in range(16))


class Repository:
    """Metadata of all roles, their signers, and the files published so far."""

    def __init__(
        self, *, hashes: bool = False, consistent: bool = True, expires: datetime | None = None
    ) -> None:
        self.hashes = hashes
        self.expires = expires or NOW + timedelta(days=30)
        self._unused = list(KEYS)
        self.signed: dict[str, Signed] = {
            "root": Root(expires=self.expires, consistent_snapshot=consistent),
            "targets": Targets(expires=self.expires),
            "snapshot": Snapshot(expires=self.expires),
            "timestamp": Timestamp(expires=self.expires),
        }
        self.signers: dict[str, list[CryptoSigner]] = {}
        self.published: dict[str, int] = {}
        self.files: dict[str, bytes] = {}
        for role in TOP_LEVEL:
            self.add_key(role)
        self.publish("root", "targets", "snapshot", "timestamp")

    @property
    def root(self) -> Root:
        return self.signed["root"]  # type: ignore[return-value]

    @property
    def timestamp(self) -> Timestamp:
        return self.signed["timestamp"]  # type: ignore[return-value]

    @property
    def snapshot(self) -> Snapshot:
        return self.signed["snapshot"]  # type: ignore[return-value]

    def targets(self, role: str = "targets") -> Targets:
        return self.signed[role]  # type: ignore[return-value]

    def new_key(self) -> CryptoSigner:
        if not self._unused:
            return CryptoSigner.generate_ed25519()
        signer = self._unused.pop()
        return CryptoSigner(signer._private_key, deepcopy(signer.public_key))

    def add_key(self, role: str, signer: CryptoSigner | None = None) -> CryptoSigner:
        """A new key for a top-level role; it signs from now on."""
        signer = signer or self.new_key()
        self.root.add_key(signer.public_key, role)
        self.signers.setdefault(role, []).append(signer)
        return signer

    def rotate(self, role: str) -> None:
        """Replace all keys of a top-level role by as many new ones."""
        count = len(self.root.roles[role].keyids)
        for key_id in list(self.root.roles[role].keyids):
            self.root.revoke_key(key_id, role)
        self.signers[role] = []
        for _ in range(count):
            self.add_key(role)

    def rotate_root(self) -> None:
        """Replace root's keys and publish the root that both old and new keys signed."""
        old = self.signers["root"]
        self.rotate("root")
        new = self.signers["root"]
        self.signers["root"] = old + new
        self.publish("root")
        self.signers["root"] = new

    def sign(self, role: str) -> bytes:
        metadata = Metadata(self.signed[role])
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer())

    def publish(self, *roles: str, bump: bool = True) -> None:
        """Sign the roles, one version higher (from the second time on), and serve them.

        A targets role is entered in the snapshot, the snapshot in the timestamp; publish those
        afterwards.
        """
        for role in roles:
            signed = self.signed[role]
            if bump and role in self.published:
                signed.version += 1
            self.published[role] = signed.version
            raw = self.sign(role)
            self.serve(role, raw)
            meta = MetaFile(
                signed.version,
                length=len(raw) if self.hashes else None,
                hashes=MetaFile.from_data(1, raw, ["sha256"]).hashes if self.hashes else None,
            )
            if role == "snapshot":
                self.timestamp.snapshot_meta = meta
            elif role not in {"root", "timestamp"}:
                self.snapshot.meta[f"{role}.json"] = meta

    def serve(self, role: str, raw: bytes, version: int | None = None) -> None:
        """Serve bytes under the name that a client asks for."""
        name = f"{quote(role, safe='')}.json"
        if role == "root" or (self.root.consistent_snapshot and role != "timestamp"):
            name = f"{version or self.signed[role].version}.{name}"
        self.files[f"metadata/{name}"] = raw

    def add_target(self, role: str, path: str, content: bytes) -> None:
        target = TargetFile.from_data(path, content, ["sha256"])
        self.targets(role).targets[path] = target
        folder, slash, name = path.rpartition("/")
        self.files[f"targets/{path}"] = content
        self.files[f"targets/{folder}{slash}{target.hashes['sha256']}.{name}"] = content

    def delegate(
        self,
        role: str,
        *,
        by: str = "targets",
        paths: list[str] | None = None,
        prefixes: list[str] | None = None,
        terminating: bool = False,
        threshold: int = 1,
    ) -> None:
        """Delegate to a role (made if it is not there) with one key; publish both afterwards."""
        delegator = self.targets(by)
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, roles={})
        assert delegator.delegations.roles is not None
        if paths is None and prefixes is None:
            paths = ["*"]
        delegator.delegations.roles[role] = DelegatedRole(
            role, [], threshold, terminating, paths, prefixes
        )
        if role not in self.signed:
            self.signed[role] = Targets(expires=self.expires)
            self.signers[role] = [self.new_key()]
        for signer in self.signers[role]:
            delegator.add_key(signer.public_key, role)

    def delegate_bins(self, prefix: str, bits: int) -> list[str]:
        """Succinct hash bins below targets, all with one key; their names."""
        bins = SuccinctRoles([], 1, bits, prefix)
        delegator = self.targets()
        delegator.delegations = Delegations({}, succinct_roles=bins)
        signer = self.new_key()
        delegator.add_key(signer.public_key)
        names = list(bins.get_roles())
        for name in names:
            self.signed[name] = Targets(expires=self.expires)
            self.signers[name] = [signer]
        return names

    def fetch(self, path: str) -> bytes | None:
        """What is served at a URL path, percent-encoded as on the wire."""
        return self.files.get(path if path.startswith("metadata/") else unquote(path))


@dataclass
class MemoryFetcher:
    """The Fetcher port on a repository in memory, with a log of what was asked for."""

    repository: Repository
    asked: list[str] = field(default_factory=list)
    down: bool = False

    async def fetch(self, path: str, *, size_max: int, size: int | None = None) -> bytes:
        self.asked.append(path)
        if self.down:
            raise Unavailable("the server is down", where=path)
        raw = self.repository.fetch(path)
        if raw is None:
            raise NotFound("not there", where=path)
        if len(raw) > size_max or (size is not None and len(raw) != size):
            raise FormatError("of another size", where=path, expected=size or size_max)
        return raw

    async def probe(self, path: str, *, size: int, at: int = 0) -> None:
        await self.fetch(path, size_max=size, size=size)

    async def stream(self, path: str, rng: ByteRange) -> AsyncIterator[bytes]:
        yield (await self.fetch(path, size_max=rng.end))[rng.offset : rng.end]
