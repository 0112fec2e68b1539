"""The allocator's settings, in a process of their own: they are for good."""

import subprocess
import sys

# Frees blocks that grow, as frames do, from two threads; what stays resident is what matters.
PROGRAM = """
import sys, threading
from slipstream.installer.allocator import give_memory_back
if sys.argv[1] == "set":
    assert give_memory_back()
def work():
    kept = []
    for size in range(1, 20, 3):
        block = bytearray(b"x" * (size << 20))
        kept.append(bytes(1000))
        del block
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * 4096)
"""


def resident_after(setting: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, setting], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_large_blocks_are_given_back() -> None:
    """Without the settings freed blocks stay in the heaps; with them they go back."""
    bare = 40 << 20

    given_back = resident_after("set")
    assert given_back < bare
    # Threads that happen to run one after the other share a heap: then there is little to see.
    assert any(resident_after("default") > given_back + (8 << 20) for _ in range(10))
