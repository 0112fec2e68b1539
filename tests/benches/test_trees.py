"""Trees are unpacked without devices and without dates of today."""

import subprocess
from pathlib import Path

from benches.trees import unpack
from slipstream.demo.images import SOURCE_DATE_EPOCH


def test_a_tree_has_fixed_dates_and_no_devices(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "dev").mkdir(parents=True)
    (made / "dev/null").write_text("stands for a device\n")
    (made / "file").write_text("built today\n")
    (made / "link").symlink_to("file")
    (made / "old").write_text("built long ago\n")
    subprocess.run(["touch", "-d", "@1000000000", made / "old"], check=True)
    archive = tmp_path / "tree.tar"
    subprocess.run(["tar", "-C", made, "-cf", archive, "."], check=True)
    folder = tmp_path / "tree"

    unpack(archive, folder)

    dates = {path.name: path.lstat().st_mtime for path in folder.rglob("*")}
    fixed = float(SOURCE_DATE_EPOCH)
    assert dates == {"dev": fixed, "file": fixed, "link": fixed, "old": 1e9}
