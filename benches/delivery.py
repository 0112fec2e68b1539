"""The chunk stores zchunk and casync as one payload: what a device with the source would fetch.

    python -m benches.delivery zchunk-encode|casync-encode SOURCE TARGET PAYLOAD
    python -m benches.delivery zchunk-decode|casync-decode SOURCE PAYLOAD MADE

Both tools make a store of the target alone, and a device takes from it what it misses; so the
payload here is a folder, and the file `fetched` in it holds the number of bytes.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

_FETCHED = "fetched"


def fetched_bytes(payload: Path) -> int:
    """What a device would fetch of the payload."""
    return int((payload / _FETCHED).read_text())


def encode_zchunk(source: Path, target: Path, payload: Path) -> None:
    payload.mkdir()
    for image, name in ((source, "source.zck"), (target, "target.zck")):
        _run("zck", "--output", payload / name, image)
    said = _run("zck_delta_size", payload / "source.zck", payload / "target.zck")
    found = re.search(r"Would download (\d+) of", said)
    assert found is not None, said
    (payload / _FETCHED).write_text(found[1])
    (payload / "source.zck").unlink()


def decode_zchunk(_source: Path, payload: Path, made: Path) -> None:
    with made.open("wb") as file:
        subprocess.run(["unzck", "--stdout", payload / "target.zck"], stdout=file, check=True)


def encode_casync(source: Path, target: Path, payload: Path) -> None:
    payload.mkdir()
    index, store, held = payload / "target.caibx", payload / "store", payload / "held"
    _run("casync", "make", f"--store={held}", payload / "source.caibx", source)
    _run("casync", "make", f"--store={store}", index, target)
    chunks = [path for path in store.rglob("*") if path.is_file()]
    missing = [path for path in chunks if not (held / path.relative_to(store)).exists()]
    for path in set(chunks) - set(missing):
        path.unlink()
    shutil.rmtree(held)
    fetched = index.stat().st_size + sum(path.stat().st_size for path in missing)
    (payload / _FETCHED).write_text(str(fetched))


def decode_casync(source: Path, payload: Path, made: Path) -> None:
    store, index = payload / "store", payload / "target.caibx"
    _run("casync", "extract", f"--seed={source}", f"--store={store}", index, made)


def _run(*words: object) -> str:
    return subprocess.run(
        [str(word) for word in words], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


_VERBS = {
    "zchunk-encode": encode_zchunk,
    "zchunk-decode": decode_zchunk,
    "casync-encode": encode_casync,
    "casync-decode": decode_casync,
}


def main() -> None:
    verb, *paths = sys.argv[1:]
    first, second, output = map(Path, paths)
    _VERBS[verb](first, second, output)


if __name__ == "__main__":
    main()
