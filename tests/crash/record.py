"""Every change that a run makes to a device's files, in order.

`Recorder` stands between the running code and the functions of `os` and `open` while it is
installed: no call site can go round it, because it does not know call sites. What it writes down is
`Op`s; media.py and vfat.py say what a medium may hold after a number of them.

Not seen: memory maps, writes through descriptors that were opened before, other processes. The
installer has none; test_crash.py compares what is replayed with the files that stand.
"""

import builtins
import fcntl
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

DISK = "disk.img"  # with a partition table; other slots are files of their own


class Medium(StrEnum):
    """What keeps a file: each has its own rules for what a power cut leaves."""

    ESP = "esp"  # vfat
    STATE = "state"  # a journaling file system
    SLOT = "slot"  # block devices


class Kind(StrEnum):
    CREATE = "create"
    MKDIR = "mkdir"
    WRITE = "write"
    TRUNCATE = "truncate"
    RENAME = "rename"
    UNLINK = "unlink"  # `new` is "held" while the process has the file open: its room is kept
    CLOSE = "close"  # the last one of a file that was removed: its room is free now
    RMDIR = "rmdir"
    SYNC = "fsync"  # of a file; fdatasync counts as the same: a size that grew is durable too
    SYNC_FOLDER = "fsync folder"
    SYNC_FS = "syncfs"  # of the file system that runs
    SYNC_ALL = "sync"  # a clean unmount
    BUMP = "bump"  # the firmware renames a boot entry
    OMITTED = "left out"  # a seeded bug: a sync that was not done
    FETCHED = "fetched"  # no operation: so many bytes of payloads came so far (offset)


SYNCS = (Kind.SYNC, Kind.SYNC_FOLDER, Kind.SYNC_FS, Kind.SYNC_ALL)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `path` is relative to the medium's folder; `new` for renames.

    `offset` of a write or the size after a truncate, in bytes. `source` is who called, as
    file:function, for people.
    """

    kind: Kind
    medium: Medium
    path: str
    new: str = ""
    offset: int = 0
    data: bytes = b""
    source: str = ""

    def __str__(self) -> str:
        more = f" -> {self.new}" if self.new else ""
        if self.kind is Kind.WRITE:
            more = f" {len(self.data)} bytes at {self.offset}"
        return f"{self.kind} {self.medium}:{self.path}{more} ({self.source})"


def place_of(folder: str, path: str) -> tuple[Medium, str] | None:
    """Medium and path on it, of an absolute path below a device's folder; None for all others."""
    if not path.startswith(folder + "/"):
        return None
    head, _, rest = path[len(folder) + 1 :].partition("/")
    if head in (Medium.ESP, Medium.STATE):
        return Medium(head), rest
    if (head.startswith("slot-") or head == DISK) and not rest:
        return Medium.SLOT, head
    return None


class Guard(Protocol):
    """Asked before every operation, and before every opening of a file for reading; told after it.

    `allow` raises OSError where the medium would: a damaged FAT, a file system that went read-only.
    """

    def allow(self, op: Op) -> None: ...

    def done(self, op: Op) -> None: ...

    def allow_reading(self, medium: Medium, path: str) -> None: ...


class Recorder:
    """Writes down what happens below `folder`; `with recorder.installed():` around the run."""

    def __init__(self, folder: Path, guard: Guard | None = None, *, sources: bool = True) -> None:
        self._caller = _caller if sources else _nobody
        self.log: list[Op] = []
        self._folder = os.path.realpath(folder)
        self._guard = guard
        self._lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {}
        self._held: dict[
            int, tuple[Medium, str]
        ] = {}  # descriptors for reading, of the ESP's files

    # --- where a path belongs

    def place(self, path: str) -> tuple[Medium, str] | None:
        """Medium and path on it; None for what is not watched."""
        return place_of(self._folder, path)

    def _path_place(self, path: Any, dir_fd: int | None = None) -> tuple[Medium, str] | None:
        if isinstance(path, int):
            return self._descriptor_place(path)
        text = os.fspath(path)
        if isinstance(text, bytes):
            text = os.fsdecode(text)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        return self.place(os.path.abspath(text))

    def _descriptor_place(self, descriptor: int) -> tuple[Medium, str] | None:
        # The link follows renames; a removed file's ends in " (deleted)" and is nobody's any more.
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return None if path.endswith(" (deleted)") else self.place(path)

    # --- writing down

    def _ask(self, kind: Kind, place: tuple[Medium, str]) -> None:
        if self._guard is not None:
            self._guard.allow(Op(kind, *place))

    def _note(self, kind: Kind, place: tuple[Medium, str], **more: Any) -> None:
        op = Op(kind, *place, source=self._caller(), **more)
        self.log.append(op)
        if self._guard is not None:
            self._guard.done(op)

    # --- the functions

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Replace the functions; put the real ones back at the end. Not reentrant."""
        names = [name for name in dir(self) if name.startswith("_os_")]
        self._real = {name: getattr(os, name[4:]) for name in names}
        real_open = builtins.open
        self._real["open"] = real_open
        try:
            for name in names:
                setattr(os, name[4:], getattr(self, name))
            builtins.open = io.open = self._open  # type: ignore[assignment]
            yield
        finally:
            for name in names:
                setattr(os, name[4:], self._real[name])
            builtins.open = io.open = real_open  # type: ignore[assignment]

    def _open(self, file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        place = self._path_place(file)
        if place is None or isinstance(file, int):
            return self._real["open"](file, mode, *rest, **more)
        kind = mode.replace("b", "").replace("t", "")
        if kind == "r":
            if self._guard is not None:
                self._guard.allow_reading(*place)
            return self._real["open"](file, mode, *rest, **more)
        if "b" not in mode or any(one not in (-1, None) for one in (*rest, *more.values())):
            raise NotImplementedError(f"opening {file} as {mode!r}: teach the recorder")
        flags = {
            "r+": os.O_RDWR,
            "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
            "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
        }[kind]
        raw = _Raw(self._os_open(file, flags | os.O_CLOEXEC, 0o666), kind == "r+")
        return io.BufferedRandom(raw) if kind == "r+" else io.BufferedWriter(raw)

    def _os_open(
        self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        place = self._path_place(path, dir_fd)
        if place is None or not flags & (os.O_CREAT | os.O_TRUNC):
            number: int = self._real["_os_open"](path, flags, mode, dir_fd=dir_fd)
            if place is not None and place[0] is Medium.ESP and not flags & os.O_DIRECTORY:
                self._held[number] = place
            return number
        with self._lock:
            there = os.path.lexists(path)
            if not there and flags & os.O_CREAT:
                self._ask(Kind.CREATE, place)
            elif there and flags & os.O_TRUNC:
                self._ask(Kind.TRUNCATE, place)
            descriptor: int = self._real["_os_open"](path, flags, mode, dir_fd=dir_fd)
            if not there:
                self._note(Kind.CREATE, place)
            elif flags & os.O_TRUNC:
                self._note(Kind.TRUNCATE, place)
            return descriptor

    def _os_close(self, descriptor: int) -> None:
        place = self._held.pop(descriptor, None)
        removed = place is not None and self._descriptor_place(descriptor) is None
        self._real["_os_close"](descriptor)
        if removed and place is not None:
            self._note(Kind.CLOSE, place)

    def _os_write(self, descriptor: int, data: Any) -> int:
        place = self._descriptor_place(descriptor)
        if place is None:
            return self._real["_os_write"](descriptor, data)  # type: ignore[no-any-return]
        with self._lock:
            appends = bool(_flags(descriptor) & os.O_APPEND)
            at = os.lseek(descriptor, 0, os.SEEK_END if appends else os.SEEK_CUR)
            self._ask(Kind.WRITE, place)
            count: int = self._real["_os_write"](descriptor, data)
            self._note(Kind.WRITE, place, offset=at, data=bytes(data)[:count])
            return count

    def _os_pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        place = self._descriptor_place(descriptor)
        if place is None:
            return self._real["_os_pwrite"](descriptor, data, offset)  # type: ignore[no-any-return]
        with self._lock:
            self._ask(Kind.WRITE, place)
            count: int = self._real["_os_pwrite"](descriptor, data, offset)
            self._note(Kind.WRITE, place, offset=offset, data=bytes(data)[:count])
            return count

    def _os_ftruncate(self, descriptor: int, length: int) -> None:
        self._resize("_os_ftruncate", descriptor, length)

    def _os_truncate(self, path: Any, length: int) -> None:
        self._resize("_os_truncate", path, length)

    def _os_posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        with self._lock:
            self._real["_os_posix_fallocate"](descriptor, offset, length)
            place = self._descriptor_place(descriptor)
            if place is not None:
                # The size after it: the call only ever grows a file.
                self._note(Kind.TRUNCATE, place, offset=os.fstat(descriptor).st_size)

    def _resize(self, name: str, path: Any, length: int) -> None:
        with self._lock:
            self._real[name](path, length)
            place = self._path_place(path)
            if place is not None:
                self._note(Kind.TRUNCATE, place, offset=length)

    def _os_rename(self, src: Any, dst: Any, **more: Any) -> None:
        self._rename("_os_rename", src, dst, **more)

    def _os_replace(self, src: Any, dst: Any, **more: Any) -> None:
        self._rename("_os_replace", src, dst, **more)

    def _rename(self, name: str, src: Any, dst: Any, **more: Any) -> None:
        with self._lock:
            old, new = self._path_place(src), self._path_place(dst)
            if old is not None and new is not None:
                if old[0] is not new[0]:
                    raise NotImplementedError(f"{src} to {dst}: another medium")
                self._ask(Kind.RENAME, old)
            self._real[name](src, dst, **more)
            if old is not None and new is not None:
                self._note(Kind.RENAME, old, new=new[1])

    def _os_unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._drop("_os_unlink", Kind.UNLINK, path, dir_fd)

    def _os_remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._drop("_os_remove", Kind.UNLINK, path, dir_fd)

    def _os_rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._drop("_os_rmdir", Kind.RMDIR, path, dir_fd)

    def _drop(self, name: str, kind: Kind, path: Any, dir_fd: int | None) -> None:
        with self._lock:
            place = self._path_place(path, dir_fd)
            if place is not None:
                os.stat(path, dir_fd=dir_fd, follow_symlinks=False)  # what is not there is no op
                self._ask(kind, place)
            self._real[name](path, dir_fd=dir_fd)
            if place is not None:
                held = kind is Kind.UNLINK and place in self._held.values()
                self._note(kind, place, new="held" if held else "")

    def _os_mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._lock:
            place = self._path_place(path, dir_fd)
            if place is not None and not os.path.lexists(path):
                self._ask(Kind.MKDIR, place)
            self._real["_os_mkdir"](path, mode, dir_fd=dir_fd)
            if place is not None:
                self._note(Kind.MKDIR, place)

    def _os_fsync(self, descriptor: int) -> None:
        self._sync("_os_fsync", descriptor)

    def _os_fdatasync(self, descriptor: int) -> None:
        self._sync("_os_fdatasync", descriptor)

    def _sync(self, name: str, descriptor: int) -> None:
        place = self._descriptor_place(descriptor)
        self._real[name](descriptor)
        if place is not None:
            with self._lock:
                folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
                self._note(Kind.SYNC_FOLDER if folder else Kind.SYNC, place)

    def _os_sync(self) -> None:
        raise NotImplementedError("sync: teach the recorder")

    def _os_link(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("link: teach the recorder")

    def _os_symlink(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("symlink: teach the recorder")

    def _os_writev(self, *_: Any) -> int:
        raise NotImplementedError("writev: teach the recorder")

    def _os_pwritev(self, *_: Any) -> int:
        raise NotImplementedError("pwritev: teach the recorder")

    def _os_sendfile(self, *_: Any, **__: Any) -> int:
        raise NotImplementedError("sendfile: teach the recorder")

    def _os_copy_file_range(self, *_: Any, **__: Any) -> int:
        raise NotImplementedError("copy_file_range: teach the recorder")


class _Raw(io.RawIOBase):
    """A file that is written through the functions of os, which are recorded."""

    def __init__(self, descriptor: int, reads: bool) -> None:
        self._descriptor = descriptor
        self._reads = reads

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = os.lseek(self._descriptor, 0, os.SEEK_CUR) if size is None else size
        os.ftruncate(self._descriptor, size)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _flags(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL)


_SHELLS = ("slot.py:sync", "slot.py:read_back", "slot.py:write", "slot.py:_write_all")


def _nobody() -> str:
    return ""


def _caller() -> str:
    """The functions of the product that called, innermost first, up to the first that is not one of
    those through which everything goes: durable.py, and a slot's own writing and syncing.
    """
    frame = sys._getframe(1)
    names: list[str] = []
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and ("/installer/" in path or "/delta/" in path):
            names.append(f"{os.path.basename(path)}:{frame.f_code.co_name}")
            if not path.endswith("/durable.py") and names[-1] not in _SHELLS:
                break
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(names)
