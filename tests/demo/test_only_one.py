"""Two demonstrations in one folder: the second is refused, and touches nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.delta.errors import Busy
from slipstream.demo.only_one import only_one
from slipstream.demo.releases import DemoRelease, DemoReleases
from slipstream.demo.story import tell

HOLD = """
import sys
from pathlib import Path
from slipstream.demo.only_one import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "work"
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="another demonstration"), only_one(folder):
            pass
        holder.kill()
    with only_one(folder):
        pass


def test_a_second_story_leaves_the_files_of_the_first(tmp_path: Path) -> None:
    kept = tmp_path / "work" / "repo" / "file"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of the first")
    release = DemoRelease(1, tmp_path / "image", tmp_path / "kernel")
    with only_one(tmp_path / "work"), pytest.raises(Busy, match="another demonstration"):
        tell(tmp_path / "work", DemoReleases(release, release, release), print)
    assert kept.read_bytes() == b"of the first"
