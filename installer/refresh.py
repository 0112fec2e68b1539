"""The device's refresh: walk the repository's metadata in TUF's order, from fetcher to store.

The main job is `refresh`; `fetch_target` then gets one signed file. What is trusted is decided in
delta/trust.py; this file only fetches, stores, and says where it had to fall back. Nothing is
stored before it is trusted. A cut between any two writes leaves a state from which the next
refresh completes, with a floor no lower than before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from slipstream.delta.errors import (
    DigestMismatch,
    Expired,
    FormatError,
    Rejected,
    RolledBack,
    SignatureError,
)
from slipstream.delta.limits import ROOT_ROTATIONS_MAX
from slipstream.delta.trust import MetadataFile, RoleWanted, TargetFile, TrustedSet
from slipstream.installer.fetch import NotFound
from slipstream.installer.metadata_store import MetadataStore
from slipstream.installer.ports import Fetcher

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the repository's folders stand below the fetcher's root; with a slash at the end."""

    metadata: str = "metadata/"
    targets: str = "targets/"


PUBLIC = Layout()


def quiet(_: str) -> None:
    """Say nothing."""


async def refresh(
    fetcher: Fetcher,
    store: MetadataStore,
    root: bytes,
    now: datetime,
    *,
    layout: Layout = PUBLIC,
    say: Say = quiet,
    root_name: object = "the first root",
) -> TrustedSet:
    """Bring the device's view of the repository up to date; TUF specification, section 5.

    `root` is the root that the running image carries: every chain starts there, so that an edited
    state folder gains nothing. `now` is the trusted time of the whole refresh (aware; see
    metadata_store.trusted_time). `say` hears of everything that was lost or unsound in the store.
    `root_name` is where `root` stands, for messages.

    Raises Rejected (bad metadata), Unavailable (network), DeviceFault (store). A root of another
    repository than the one trusted so far is refused before anything stored is touched.
    """
    trusted = open_first_root(store, root, now, root_name)
    first_version = trusted.root.version
    fresh = store.read("timestamp") is None
    try:
        try:
            await _walk_roots(trusted, fetcher, store, layout, say)
        finally:
            _settle_root(trusted, store, say)
        trusted.close_root()
        await _update_timestamp(trusted, fetcher, store, layout, say)
    except SignatureError as error:
        if not fresh:
            raise
        # Nothing was ever trusted here: more likely the wrong file than an attack.
        raise SignatureError(
            error.what,
            where=error.where,
            expected=error.expected,
            got=error.got,
            hint=f"Is {root_name} the root of another repository? "
            "Put this repository's 1.root.json there",
        ) from error
    # Only now: nothing signed by the keys of a wrong root ever arrives here.
    if store.read_root(first_version) != root:
        store.write_root(first_version, root)
    await _update_snapshot(trusted, fetcher, store, layout, say)
    await _load_role(RoleWanted("targets", "root"), trusted, fetcher, store, layout, say)
    return trusted


async def find_target(
    fetcher: Fetcher,
    store: MetadataStore,
    trusted: TrustedSet,
    path: str,
    *,
    layout: Layout = PUBLIC,
    say: Say = quiet,
) -> TargetFile | None:
    """The signed target of that path, loading delegated roles on the way; None: nobody signed it.

    Raises as refresh does.
    """
    while isinstance(found := trusted.find_target(path), RoleWanted):
        await _load_role(found, trusted, fetcher, store, layout, say)
    return found


async def fetch_target(
    fetcher: Fetcher,
    store: MetadataStore,
    trusted: TrustedSet,
    path: str,
    *,
    size_max: int,
    layout: Layout = PUBLIC,
    say: Say = quiet,
) -> bytes:
    """The bytes of a signed target of at most `size_max` bytes: held in memory, checked whole.

    Raises as refresh does, and Rejected if nobody signed for the path.
    """
    target = await find_target(fetcher, store, trusted, path, layout=layout, say=say)
    if target is None:
        raise Rejected(
            "no signed metadata names this file",
            where=path,
            hint="Check the release's name, or that the repository still offers it",
        )
    if target.length > size_max:
        raise FormatError(
            "signed file is too large", where=path, expected=f"<= {size_max}", got=target.length
        )
    raw = await fetcher.fetch(
        layout.targets + target.file_path, size_max=target.length, size=target.length
    )
    target.check(raw)
    return raw


def open_first_root(
    store: MetadataStore, root: bytes, now: datetime, root_name: object
) -> TrustedSet:
    """The trusted set that begins with `root`; nothing is written or fetched. Raises Rejected if
    it is not sound, or is not the root that the device trusted so far."""
    try:
        trusted = TrustedSet(root, now)
    except Rejected as error:
        raise Rejected(
            f"the first trusted root is not sound: {error}",
            where=root_name,
            hint="Put the repository's 1.root.json there",
        ) from error
    _refuse_foreign(trusted, store, root_name)
    return trusted


def _refuse_foreign(first: TrustedSet, store: MetadataStore, root_name: object) -> None:
    """Refuse a first root that differs from the stored one of its version.

    A wrong path in the configuration would otherwise look like keys that were revoked, and drop
    the memory that rollback is noticed by. Stored bytes that are not a sound root are damage.
    """
    if store.read("timestamp") is None:
        return  # nothing to lose, and the stored root may be the wrong one
    version = first.root.version
    for stored in (store.read_root(version), store.read("root")):
        if stored is None:
            continue
        try:
            known = TrustedSet(stored, first.now).root
        except Rejected:
            continue
        if known.version == version and known != first.root:
            raise Rejected(
                "this is the root of another repository",
                where=root_name,
                expected=f"root {version} that this device trusted so far, as in {store.folder}",
                got=f"another root {version}",
                hint="Correct server.root. If the repository was really replaced, remove "
                f"{store.folder} and {store.folder.parent / 'spool'}",
            )


async def _walk_roots(
    trusted: TrustedSet, fetcher: Fetcher, store: MetadataStore, layout: Layout, say: Say
) -> None:
    # spec 5.3.3 to 5.3.9. The history is the same chain, walked without the network.
    for _ in range(ROOT_ROTATIONS_MAX):
        file = trusted.next_root
        version = trusted.root.version + 1
        stored = store.read_root(version)
        if stored is not None:
            try:
                trusted.update_root(stored)
            except Rejected as error:
                say(f"stored root {version} is unsound, fetching it again: {error}")
            else:
                continue
        try:
            raw = await _fetch(fetcher, layout, file)
        except NotFound:
            return
        trusted.update_root(raw)
        store.write_root(version, raw)
    say(f"stopped after {ROOT_ROTATIONS_MAX} roots; the next refresh goes on from there")


def _settle_root(trusted: TrustedSet, store: MetadataStore, say: Say) -> None:
    """Make root.json the current root; forget what a revoked online key may have driven up.

    Forgetting comes first: cut in between, root.json still is the earlier root, and the next
    refresh forgets again.
    """
    earlier = store.read("root")
    if earlier == trusted.root_bytes:
        return
    if earlier is not None and trusted.revokes_online_keys_since(earlier):
        say("timestamp or snapshot keys were revoked: forgetting the stored timestamp and snapshot")
        store.remove("timestamp")
        store.remove("snapshot")
    store.write("root", trusted.root_bytes)


async def _update_timestamp(
    trusted: TrustedSet, fetcher: Fetcher, store: MetadataStore, layout: Layout, say: Say
) -> None:
    # spec 5.4
    stored = store.read("timestamp")
    if stored is None:
        say("no stored timestamp (first refresh, or lost): rollback is not noticed this time")
    else:
        try:
            trusted.remember_timestamp(stored)
        except Rejected as error:
            say(f"stored timestamp is unsound, rollback is not noticed this time: {error}")
    raw = await _fetch(fetcher, layout, trusted.timestamp_file)
    if trusted.update_timestamp(raw):
        store.write("timestamp", raw)


async def _update_snapshot(
    trusted: TrustedSet, fetcher: Fetcher, store: MetadataStore, layout: Layout, say: Say
) -> None:
    # spec 5.5
    stored = store.read("snapshot")
    if stored is None:
        say(
            "no stored snapshot (first refresh, or lost): rollback of a role is not noticed this time"
        )
    else:
        try:
            if trusted.remember_snapshot(stored):
                return
        except Rejected as error:
            say(f"stored snapshot is unsound, rollback of a role is not noticed this time: {error}")
    raw = await _fetch(fetcher, layout, trusted.snapshot_file)
    trusted.update_snapshot(raw)
    store.write("snapshot", raw)


async def _load_role(
    wanted: RoleWanted,
    trusted: TrustedSet,
    fetcher: Fetcher,
    store: MetadataStore,
    layout: Layout,
    say: Say,
) -> None:
    # spec 5.6. The stored copy is taken only if it is exactly what the snapshot names today.
    file = trusted.role_file(wanted.role)
    stored = store.read(wanted.role)
    if stored is not None:
        try:
            trusted.update_delegated(stored, wanted.role, wanted.delegator)
        except (DigestMismatch, RolledBack, Expired):
            pass  # the usual case: the repository has gone on
        except Rejected as error:
            say(f"stored {wanted.role!r} is unsound, fetching it again: {error}")
        else:
            return
    raw = await _fetch(fetcher, layout, file)
    trusted.update_delegated(raw, wanted.role, wanted.delegator)
    store.write(wanted.role, raw)


async def _fetch(fetcher: Fetcher, layout: Layout, file: MetadataFile) -> bytes:
    return await fetcher.fetch(layout.metadata + file.path, size_max=file.size_max)
