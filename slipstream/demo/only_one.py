"""One demonstration at a time in a folder: two would take each other's files away."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipstream.delta.errors import Busy


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder, which need not exist, against other demonstrations; Busy if one holds it.

    The lock is a file beside it, `.NAME.lock`, which stays: whoever removed it could let a third
    one in beside the second. It ends with the process, however that ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                "another demonstration runs there",
                where=folder,
                hint="Wait for it, or give another folder: --cache, and --work for its files",
            ) from error
        yield
