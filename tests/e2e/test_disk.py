"""The guest's disk: partitions lie where the installer and the kernel find them."""

import json
import subprocess
from pathlib import Path

from e2e.disk import (
    PARTITIONS,
    make_table,
    offset_of,
    partition_uuids,
)

ROOT = "00112233445566778899aabbccddeeff" + "ffeeddccbbaa99887766554433221100"


def test_uuids_are_the_halves_of_the_root_hash() -> None:
    # systemd-veritysetup-generator(8): the first and the last 128 bits.
    assert partition_uuids(ROOT) == (
        "00112233-4455-6677-8899-aabbccddeeff",
        "ffeeddcc-bbaa-9988-7766-554433221100",
    )


def test_the_table_is_what_sfdisk_reads(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    data, tree = partition_uuids(ROOT)

    make_table(disk, {"rootfs-a": data, "rootfs-a-verity": tree})

    words = ["sfdisk", "--json", str(disk)]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    rows = {one["name"]: one for one in json.loads(done.stdout)["partitiontable"]["partitions"]}
    assert {name: row["start"] * 512 for name, row in rows.items()} == {
        one.name: offset_of(one.name) for one in PARTITIONS
    }
    assert rows["rootfs-a"]["uuid"].lower() == data
    assert rows["rootfs-a-verity"]["uuid"].lower() == tree
