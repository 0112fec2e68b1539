"""Findings in the boot partition as a file system: its chains, sizes, tables and flags.

Pure: a volume as delta/filesystem/fat_volume.py read it in, findings out. Where fsck.vfat finds
shared clusters, wrong sizes or broken chains, so do these (tests/installer/doctor/). What files
mean to the boot loader, entries.py says.
"""

import re
from collections.abc import Iterator

from slipstream.delta.filesystem.fat_volume import ChainEnd, FatFile, FatVolume, Shared
from slipstream.installer.boot.entry import Suffix, parse_tries
from slipstream.installer.doctor.finding import Check, EspName, Finding, Severity

_DEBRIS = re.compile(r"FSCK[0-9]{4}\.REC\Z", re.IGNORECASE)
_NAMES_MAX = 5  # in one sentence


def volume_findings(volume: FatVolume, esp: EspName, *, mounted: bool) -> Iterator[Finding]:
    """What is wrong with the file system. `mounted`: Linux may write to it, and so has
    marked it as dirty itself.
    """
    yield from (_cross_linked(volume, shared, esp) for shared in volume.shared)
    for file in volume.files:
        yield from _chain_findings(volume, file, esp)
    yield from _folder_findings(volume, esp)
    if volume.copies_differ_at is not None:
        yield Finding(
            Check.TABLES_DIFFER,
            Severity.FAULT,
            str(esp),
            "the copies of the file allocation table differ, "
            f"from cluster {volume.copies_differ_at} on: firmware may follow another than Linux",
            esp.fsck(),
        )
    yield from _flag_findings(volume, esp, mounted=mounted)
    debris = [file.path for file in volume.files if _DEBRIS.match(file.name)]
    if debris:
        size = sum(file.size for file in volume.files if file.path in debris)
        yield Finding(
            Check.DEBRIS,
            Severity.NOTE,
            esp.path(debris[0]),
            f"{len(debris)} files that fsck.vfat made of lost clusters take {size:,} bytes",
            esp.remove(*debris),
        )


def _cross_linked(volume: FatVolume, shared: Shared, esp: EspName) -> Finding:
    """fsck.vfat -a leaves the clusters to the first that it meets and empties the others, so the
    one that is wanted is kept elsewhere before. (Its -d, which drops a name, does nothing on FAT32:
    tried with 4.2.)
    """
    files = [file for file in map(volume.find, shared.paths) if file is not None]
    names = ", ".join(f"/{path}" for path in shared.paths[:_NAMES_MAX])
    kept = min(files, key=lambda file: _last_to_go(volume, file), default=None)
    mend = esp.fsck() if kept is None or kept.is_folder else esp.fsck_but_keep(kept.path)
    return Finding(
        Check.CROSS_LINKED,
        Severity.FAULT,
        esp.path(shared.paths[0]),
        f"{names} share {shared.clusters} clusters: removing one of them destroys the others",
        mend,
    )


def _last_to_go(volume: FatVolume, file: FatFile) -> tuple[bool, bool, bool]:
    """Sorts what is to be kept first: whole, visible, counted (a plain name says more than is known)."""
    needed = -(-file.size // volume.layout.cluster_size)
    whole = file.chain.length == needed and file.chain.end is ChainEnd.END
    suffix = next((one for one in Suffix if file.name.lower().endswith(one)), None)
    is_counted = suffix is not None and parse_tries(file.name, suffix)[1] is not None
    return not whole, file.name.startswith("."), not is_counted


def _chain_findings(volume: FatVolume, file: FatFile, esp: EspName) -> Iterator[Finding]:
    """A chain that does not end as it should, or has not as many clusters as the size needs."""
    chain, where = file.chain, esp.path(file.path)
    if chain.end is not ChainEnd.END:
        yield Finding(
            Check.BROKEN_CHAIN,
            Severity.FAULT,
            where,
            f"its chain {chain.end.value}, after {chain.length} clusters",
            esp.fsck(),
        )
    cluster_size = volume.layout.cluster_size
    if file.is_folder:
        if file.size or not chain.length:
            yield Finding(
                Check.BROKEN_FOLDER,
                Severity.FAULT,
                where,
                "a folder with a size" if file.size else "a folder without a cluster",
                esp.fsck(),
            )
        return
    needed = -(-file.size // cluster_size)
    if chain.length < needed and chain.end is ChainEnd.END:
        yield Finding(
            Check.WRONG_SIZE,
            Severity.FAULT,
            where,
            f"its size is {file.size:,} bytes, its clusters hold {chain.length * cluster_size:,}",
            f"{esp.fsck()}; then install the release again",
        )
    elif chain.length > needed:
        # A power cut while a file grew: clusters first, then the size. Only room is lost.
        yield Finding(
            Check.WRONG_SIZE,
            Severity.NOTE,
            where,
            f"{chain.length} clusters for {file.size:,} bytes, which need {needed}",
            esp.fsck(),
        )


def _folder_findings(volume: FatVolume, esp: EspName) -> Iterator[Finding]:
    """Slots that firmware and Linux read differently."""
    for folder in volume.folders.values():
        behind = [one.name for one in folder.slots.records if one.is_behind_end]
        if behind:
            yield Finding(
                Check.BROKEN_FOLDER,
                Severity.FAULT,
                esp.path(folder.path),
                f"{', '.join(behind[:_NAMES_MAX])} behind the mark that ends the folder: Linux "
                "sees them, firmware does not",
                esp.fsck(),
            )
        if folder.slots.strays:
            yield Finding(
                Check.BROKEN_FOLDER,
                Severity.NOTE,
                esp.path(folder.path),
                f"{len(folder.slots.strays)} pieces of long names that belong to no file, "
                "from a rename that was cut",
                esp.fsck(),
            )
        seen: dict[str, str] = {}
        for record in folder.slots.records:
            twin = seen.setdefault(record.name.lower(), record.name)
            if twin is not record.name:
                yield Finding(
                    Check.BROKEN_FOLDER,
                    Severity.FAULT,
                    esp.path(folder.path),
                    f"two files have the name {record.name}",
                    esp.fsck(),
                )


def _flag_findings(volume: FatVolume, esp: EspName, *, mounted: bool) -> Iterator[Finding]:
    if volume.layout.is_dirty and not mounted:
        yield Finding(
            Check.DIRTY,
            Severity.FAULT,
            str(esp),
            "marked as dirty in the boot sector: it was not unmounted",
            esp.fsck(),
        )
    if not volume.was_shut_down:
        yield Finding(
            Check.DIRTY,
            Severity.FAULT,
            str(esp),
            "marked as dirty in the table: the firmware was cut while it wrote, a counted entry "
            "may be damaged",
            esp.fsck(),
        )
    if not volume.had_no_errors:
        yield Finding(
            Check.DIRTY,
            Severity.FAULT,
            str(esp),
            "an error of the medium is noted in the table",
            f"{esp.fsck()}; look at dmesg, replace the medium if it goes on",
        )
    if volume.lost_clusters:
        size = volume.lost_clusters * volume.layout.cluster_size
        yield Finding(
            Check.LOST_CLUSTERS,
            Severity.NOTE,
            str(esp),
            f"{volume.lost_clusters} clusters ({size:,} bytes) are taken and belong to no file",
            esp.fsck(),
        )
    if volume.backup_differs:
        yield Finding(
            Check.BACKUP_BOOT_SECTOR,
            Severity.NOTE,
            str(esp),
            "the copy of the boot sector differs from it",
            esp.fsck(),
        )
