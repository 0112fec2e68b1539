"""HDiffPatch as a command.

python -m benches.hdiffpatch_peer encode SOURCE TARGET PAYLOAD
python -m benches.hdiffpatch_peer decode SOURCE PAYLOAD MADE
"""

import sys
from pathlib import Path

import hdiffpatch

LEVEL = 9
WINDOW_LOG2 = 26


def main() -> None:
    verb, *paths = sys.argv[1:]
    first, second, output = map(Path, paths)
    if verb == "encode":
        # The target is compared after decoding, so the library need not do it once more.
        made = hdiffpatch.diff(
            first.read_bytes(),
            second.read_bytes(),
            compression=hdiffpatch.Lzma2Config(level=LEVEL, window=WINDOW_LOG2),
            validate=False,
        )
    else:
        made = hdiffpatch.apply(first.read_bytes(), second.read_bytes())
    output.write_bytes(made)


if __name__ == "__main__":
    main()
