"""What a publisher does to its disk: four operations, each durable when it returns.

A class only so that tests can count the operations and fail at each of them; there is one real one.
"""

import os
from pathlib import Path

from slipstream.delta.durable import remove_durably, rename_durably, sync_folder, write_durably


class Disk:
    """Durable changes to a repository. All raise OSError and then leave the old state."""

    def write(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file's bytes."""
        write_durably(path, data, mode=mode)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file whose bytes are durable its final name, replacing what stands there."""
        rename_durably(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is fine."""
        remove_durably(path)

    def make_folder(self, path: Path, *, mode: int = 0o755) -> None:
        """Make a folder and those above it; one that is there is fine."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        path.mkdir(mode=mode, exist_ok=True)
        os.chmod(path, mode)  # whatever the umask is: keys/ must not depend on it
        sync_folder(path.parent)
