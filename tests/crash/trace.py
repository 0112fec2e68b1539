"""The same log as record.py's, of a process as it is: from what strace saw of its system calls.

    ops = parse_trace(text, folder, names)     `names` is what stood in the folder before

Independent of the recorder: that one stands between Python code and `os`, this one between the
process and the kernel. test_trace.py compares what they say of one install.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.record import Kind, Medium, Op, place_of

# Everything that changes a file or a name, or makes either durable; and what moves a file's offset.
CALLS = (
    "open,openat,openat2,creat,close,dup,dup2,dup3,lseek,mmap,write,pwrite64,writev,pwritev,pwritev2,"
    "ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,"
    "fdatasync,sync,syncfs,sync_file_range,msync,copy_file_range,sendfile,splice,link,linkat,symlink,"
    "symlinkat,io_uring_setup"
)
STRACE = (
    "strace",
    "-f",
    "-y",
    "-xx",
    "-s",
    str(1 << 24),
    "-e",
    "signal=none",
    "-e",
    f"trace={CALLS}",
)

_BEGUN = re.compile(r"(?P<pid>\d+) +(?P<call>.*) <unfinished \.\.\.>\Z")
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)\Z")
_CALL = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<words>.*)\) += (?P<result>-?\d+)")
_WORD = re.compile(r'"(?P<text>[^"]*)"|(?P<fd>AT_FDCWD|\d+)<(?P<path>[^>]*)>|(?P<other>[^ ,]+)')
_UNKNOWN = frozenset(
    [
        "writev",
        "pwritev",
        "pwritev2",
        "sync",
        "sync_file_range",
        "msync",
        "copy_file_range",
        "sendfile",
        "splice",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
        "dup",
        "dup2",
        "dup3",
        "openat2",
        "creat",
        "io_uring_setup",
    ]
)


@dataclass(frozen=True, slots=True)
class _Call:
    """One system call that succeeded. `fds` are (number, path), `texts` strings, `others` the rest."""

    name: str
    fds: tuple[tuple[str, str], ...]
    texts: tuple[bytes, ...]
    others: tuple[str, ...]
    result: int


@dataclass
class _Process:
    """What must be remembered between calls: names that are there, and descriptors."""

    folder: Path
    names: set[tuple[Medium, str]]
    offsets: dict[str, int] = field(default_factory=dict)
    appending: set[str] = field(default_factory=set)
    sizes: dict[tuple[Medium, str], int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    opened: dict[str, tuple[Medium, str]] = field(default_factory=dict)  # of the ESP's files
    removed: set[str] = field(default_factory=set)  # descriptors of files that were removed since

    def place(self, path: str) -> tuple[Medium, str] | None:
        return place_of(str(self.folder), path)

    def path(self, call: _Call, index: int) -> str:
        """A path argument, beside the folder that it may be relative to."""
        text = call.texts[index].decode()
        base = call.fds[index][1] if index < len(call.fds) else str(self.folder)
        return str(Path(base) / text)


def parse_trace(text: str, folder: Path, sizes: dict[tuple[Medium, str], int]) -> list[Op]:
    """The operations below `folder`, in the order in which they ended.

    `sizes` are the files that were there before; folders have size 0. Raises NotImplementedError for
    a call that changes a watched file in a way that the models do not know.
    """
    process = _Process(folder.resolve(), set(sizes), sizes=dict(sizes))
    return [op for call in _calls(text) for op in _ops(process, call)]


def _calls(text: str) -> Iterator[_Call]:
    begun: dict[str, str] = {}
    for line in text.splitlines():
        if match := _BEGUN.match(line):
            begun[match["pid"]] = match["call"]
            continue
        if match := _RESUMED.match(line):
            line = f"{match['pid']} {begun.pop(match['pid'])}{match['rest']}"
        match = _CALL.match(line)
        if match is None or int(match["result"]) < 0:
            continue
        fds, texts, others = [], [], []
        for word in _WORD.finditer(match["words"]):
            if word["text"] is not None:
                texts.append(_bytes(word["text"]))
            elif word["fd"] is not None:
                fds.append((word["fd"], _bytes(word["path"]).decode()))
            else:
                others.append(word["other"])
        yield _Call(match["name"], tuple(fds), tuple(texts), tuple(others), int(match["result"]))


def _bytes(text: str) -> bytes:
    """strace -xx writes every byte as \\xNN."""
    return bytes.fromhex(text.replace("\\x", ""))


def _ops(process: _Process, call: _Call) -> Iterator[Op]:
    if call.name in ("open", "openat"):
        yield from _open(process, call)
    elif call.name in ("rename", "renameat", "renameat2"):
        yield from _rename(process, call)
    elif call.name in ("unlink", "unlinkat", "rmdir"):
        yield from _remove(process, call)
    elif call.name in ("mkdir", "mkdirat"):
        place = process.place(process.path(call, 0))
        if place is not None:
            process.names.add(place)
            yield Op(Kind.MKDIR, *place)
    elif call.name == "truncate":
        place = process.place(process.path(call, 0))
        if place is not None:
            yield _sized(process, place, int(call.others[0]))
    elif call.fds:
        yield from _on_descriptor(process, call, call.fds[0][0])


def _open(process: _Process, call: _Call) -> Iterator[Op]:
    number = str(call.result)
    flags = call.others[0].split("|")
    path = process.path(call, 0)
    place = process.place(path)
    process.offsets[number] = 0
    for known in (process.appending, process.folders, process.removed):
        known.discard(number)
    process.opened.pop(number, None)
    if place is None:
        return
    if "O_APPEND" in flags:
        process.appending.add(number)
    if Path(path).is_dir() or "O_DIRECTORY" in flags:
        process.folders.add(number)
    elif place[0] is Medium.ESP:
        process.opened[number] = place
    if "O_CREAT" in flags and place not in process.names:
        process.names.add(place)
        process.sizes[place] = 0
        yield Op(Kind.CREATE, *place)
    elif "O_TRUNC" in flags:
        yield _sized(process, place, 0)


def _rename(process: _Process, call: _Call) -> Iterator[Op]:
    old, new = process.place(process.path(call, 0)), process.place(process.path(call, 1))
    if old is None or new is None:
        return
    process.names.discard(old)
    process.names.add(new)
    process.sizes[new] = process.sizes.pop(old, 0)
    for number, place in process.opened.items():
        if place == old:
            process.opened[number] = new
    yield Op(Kind.RENAME, *old, new=new[1])


def _remove(process: _Process, call: _Call) -> Iterator[Op]:
    place = process.place(process.path(call, 0))
    if place is None:
        return
    process.names.discard(place)
    if call.name == "rmdir" or "AT_REMOVEDIR" in call.others:
        yield Op(Kind.RMDIR, *place)
        return
    held = {number for number, opened in process.opened.items() if opened == place}
    process.removed |= held
    yield Op(Kind.UNLINK, *place, new="held" if held else "")


def _on_descriptor(process: _Process, call: _Call, number: str) -> Iterator[Op]:
    if call.name == "close":
        place = process.opened.pop(number, None)
        if number in process.removed:
            process.removed.discard(number)
            if place is not None and place not in process.opened.values():
                yield Op(Kind.CLOSE, *place)
        return
    place = process.place(call.fds[0][1])
    if place is None:
        return
    if call.name in _UNKNOWN or (call.name == "mmap" and "MAP_SHARED" in call.others[-2]):
        raise NotImplementedError(f"{call.name} on {place}: teach the parser")
    if call.name == "lseek":
        process.offsets[number] = call.result
    elif call.name in ("write", "pwrite64"):
        yield _write(process, place, call, number)
    elif call.name == "ftruncate":
        yield _sized(process, place, int(call.others[0]))
    elif call.name == "fallocate":
        end = int(call.others[1]) + int(call.others[2])
        yield _sized(process, place, max(end, process.sizes.get(place, 0)))
    elif call.name == "syncfs":
        yield Op(Kind.SYNC_FS, place[0], "")
    elif call.name in ("fsync", "fdatasync"):
        yield Op(Kind.SYNC_FOLDER if number in process.folders else Kind.SYNC, *place)


def _write(process: _Process, place: tuple[Medium, str], call: _Call, number: str) -> Op:
    data = call.texts[0][: call.result]
    if call.name == "pwrite64":
        offset = int(call.others[-1])
    elif number in process.appending:
        offset = process.sizes.get(place, 0)
    else:
        offset = process.offsets[number]
        process.offsets[number] += len(data)
    process.sizes[place] = max(process.sizes.get(place, 0), offset + len(data))
    return Op(Kind.WRITE, *place, offset=offset, data=data)


def _sized(process: _Process, place: tuple[Medium, str], size: int) -> Op:
    process.sizes[place] = size
    return Op(Kind.TRUNCATE, *place, offset=size)
