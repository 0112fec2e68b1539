"""`slipstream repo uki`: a unified kernel image that is tied to the images of its release.

`build_uki` is the whole of it: hash the images, compose the texts, lay out the sections behind
systemd's stub, write, sign. The same inputs make the same bytes, but for the signature. Not here: PCR
signatures, addons, profiles, device trees (docs/uki.md says what to use for them).

Sources: UAPI Unified Kernel Image specification; systemd-stub(7); for the order of the sections and
what `.linux` takes in memory, systemd's src/ukify/ukify.py.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tuf.api.metadata import Targets

from slipstream.delta.cmdline import MOUNTS
from slipstream.delta.durable import rename_durably
from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.fields import check_line
from slipstream.delta.limits import MIB
from slipstream.delta.os_release import MenuKey, parse_menu_key
from slipstream.delta.pe import HEADER_BYTES_MAX
from slipstream.server.boot_files import judge_order
from slipstream.server.cmdline import compose_cmdline
from slipstream.server.image import ImageFile, check_output
from slipstream.server.image_names import check_mounted_names, read_last
from slipstream.server.osrel import OS_RELEASE_BYTES_MAX, compose_osrel
from slipstream.server.progress import Progress, unwatched
from slipstream.server.releases import list_releases, menu_keys, scan_image
from slipstream.server.repo import Repository
from slipstream.server.secure_boot import ImageSigner, sign_image
from slipstream.server.sign import read_in_force
from slipstream.server.stub import STUB_BYTES_MAX, Header, Plan, Wanted, parse_header, plan_image

STUBS = Path("/usr/lib/systemd/boot/efi")  # Debian's systemd-boot-efi; the same path elsewhere

_PIECE_BYTES = 4 * MIB
_INITRD_ALIGN_BYTES = 4  # initramfs buffer format: archives begin at a multiple of it
_UNAME_CHARS_MAX = 64  # Linux: __NEW_UTS_LEN
# x86 boot protocol, offsets in a bzImage: the magic, and where the version string is, less 0x200.
_X86_MAGIC_AT, _X86_VERSION_AT, _X86_SETUP_BYTES = 0x202, 0x20E, 0x200

Content: TypeAlias = bytes | Path


@dataclass(frozen=True, slots=True)
class UkiRequest:
    """What an image is made from.

    `images` by name (rootfs, root or usr); `initrds` in their order; `version` None: as in the
    os-release file; `stub` None: systemd's for the kernel's machine; `uname` None: as the kernel
    says, where it does.
    """

    images: Mapping[str, Path]
    linux: Path
    os_release: Path
    initrds: Sequence[Path] = ()
    cmdline: str = ""
    version: str | None = None
    stub: Path | None = None
    splash: Path | None = None
    uname: str | None = None
    channel: str = "stable"  # whose published releases it is compared with
    change_images: bool = False  # the images may be named otherwise than the last release's

    def __post_init__(self) -> None:
        mounts = [MOUNTS.get(name) for name in self.images]
        if not mounts or None in mounts or len(set(mounts)) < len(mounts):
            raise UsageError(
                "the image of a root file system or of /usr is needed, one of each at the most",
                expected="--image rootfs=FILE or --image usr=FILE",
                got=", ".join(self.images) or "none",
            )


@dataclass(frozen=True, slots=True)
class BuiltUki:
    """What was made: `roots` are root hashes in hex by image name, `signed_by` a certificate's subject,
    `notes` what its owner should know."""

    path: Path
    size: int
    cmdline: str
    roots: Mapping[str, str]
    key: MenuKey
    signed_by: str | None
    notes: tuple[str, ...]


def build_uki(
    repo: Repository,
    request: UkiRequest,
    output: Path,
    *,
    signer: ImageSigner | None = None,
    on_progress: Progress = unwatched,
) -> BuiltUki:
    """Make the unified kernel image at `output`, whole or not at all; signed, if there is a signer.

    Its command line names the root hash that each image will have in `repo`. UsageError for
    inputs that make no bootable image; SlipstreamError where it cannot be signed; OSError.
    """
    texts = (request.linux, *request.initrds, request.os_release, request.stub, request.splash)
    check_output(output, (*texts, *request.images.values()), device=False)
    published = read_in_force(repo).targets.signed
    if not request.change_images:
        last = read_last(repo, published, request.channel)
        check_mounted_names(request.images, last, "--image")
    kernel = _read_kernel(request.linux)
    stub_path = request.stub or STUBS / f"linux{kernel.architecture}.efi.stub"
    stub = _read_stub(stub_path, kernel)
    osrel = compose_osrel(
        _read(request.os_release, OS_RELEASE_BYTES_MAX),
        product=repo.policy.product,
        version=request.version,
    )
    key = parse_menu_key(osrel)
    assert key is not None, "IMAGE_ID is there"
    roots = {
        name: scan_image(path, repo.policy.salt, partial(on_progress, f"hash {name}")).tree.tuple.root.hex
        for name, path in request.images.items()
    }  # fmt: skip
    line = compose_cmdline(request.cmdline, {MOUNTS[name]: root for name, root in roots.items()})
    sections: dict[str, tuple[Content, ...]] = {
        ".osrel": (osrel,),
        ".cmdline": (line.text.encode("ascii"),),
        ".uname": (_uname(request).encode("ascii"),),
        ".splash": _splash(request.splash),
        ".initrd": _joined(request.initrds),
        # Last: behind it may stand what the kernel needs of memory besides its bytes.
        ".linux": (request.linux,),
    }
    sizes = {name: sum(map(_size, contents)) for name, contents in sections.items()}
    sections = {name: contents for name, contents in sections.items() if sizes[name]}
    wanted = [
        Wanted(name, sizes[name], max(sizes[name], kernel.image_size), is_code=True)
        if name == ".linux"
        else Wanted(name, sizes[name], sizes[name])
        for name in sections
    ]
    try:
        plan = plan_image(stub, wanted)
    except FormatError as error:
        raise UsageError(str(error), where=stub_path) from error
    notes = [*line.notes, *_judge_order(repo, published, request, key)]
    if signer is None:
        notes.append("not signed: a device with Secure Boot refuses it (--sign-key, --sign-cert)")
    with _temporary(output, "tmp") as unsigned, _temporary(output, "signed.tmp") as signed:
        _write(unsigned, plan, sections, sizes, on_progress)
        if signer is not None:
            sign_image(unsigned, signed, signer)
        made = unsigned if signer is None else signed
        size = made.stat().st_size
        rename_durably(made, output)
    by = None if signer is None else signer.name
    return BuiltUki(output, size, line.text, roots, key, by, tuple(notes))


@contextmanager
def _temporary(output: Path, suffix: str) -> Iterator[Path]:
    """A file beside the output, which is gone afterwards unless it was renamed."""
    path = output.with_name(f".{output.name}.{suffix}")
    path.unlink(missing_ok=True)  # what a killed run left
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _judge_order(
    repo: Repository, published: Targets, request: UkiRequest, key: MenuKey
) -> list[str]:
    """What `repo publish` will say of the version, as a note: an image may be made to be looked at."""
    known = list_releases(published).values()
    line = [one for one in known if one.channel == request.channel and one.release != key.version]
    earlier = menu_keys(repo, line)
    before, equal = judge_order(key, earlier)
    if before is not None:
        above = f"IMAGE_VERSION {earlier[before].version} is above {key.version}"
        return [f"systemd-boot would start the published release {before} instead: {above}"]
    return [f"the published release {equal} has the same version"] if equal is not None else []


def _write(
    path: Path,
    plan: Plan,
    sections: Mapping[str, tuple[Content, ...]],
    sizes: Mapping[str, int],
    on_progress: Progress,
) -> None:
    total = plan.places[-1].end
    with path.open("wb") as file:
        file.write(plan.head)
        for place, (name, parts) in zip(plan.places, sections.items(), strict=True):
            for part in parts:
                _copy(part, file)
                on_progress("write", file.tell(), total)
            if file.tell() != place.offset + sizes[name]:
                raise UsageError(f"a file of section {name} changed while it was read")
            file.write(bytes(place.end - file.tell()))
        file.flush()
        os.fsync(file.fileno())


def _copy(part: Content, file: BinaryIO) -> None:
    if isinstance(part, bytes):
        file.write(part)
        return
    file.writelines(_pieces(part))


def _pieces(path: Path) -> Iterator[bytes]:
    with ImageFile(path) as image:
        for offset in range(0, image.size, _PIECE_BYTES):
            yield image.read(offset, min(_PIECE_BYTES, image.size - offset))


def _size(part: Content) -> int:
    return len(part) if isinstance(part, bytes) else part.stat().st_size


def _joined(initrds: Sequence[Path]) -> tuple[Content, ...]:
    """Archives one behind the other, each at a multiple of _INITRD_ALIGN_BYTES."""
    parts: list[Content] = []
    for initrd in initrds:
        size = _size(initrd)
        if not size:
            raise UsageError("initrd is empty", where=initrd)
        parts += [initrd, bytes(-size % _INITRD_ALIGN_BYTES)]
    return tuple(parts)


def _read(path: Path, bytes_max: int) -> bytes:
    """The first bytes of a file."""
    with ImageFile(path) as file:
        return file.read(0, min(file.size, bytes_max + 1))


def _read_kernel(path: Path) -> Header:
    try:
        return parse_header(_read(path, HEADER_BYTES_MAX))
    except FormatError as error:
        raise UsageError(
            f"the kernel has no EFI stub: {error.what}",
            where=path,
            expected="a bzImage (x86) or an Image, built with CONFIG_EFI_STUB",
            got=error.got,
        ) from error


def _read_stub(path: Path, kernel: Header) -> bytes:
    try:
        stub = _read(path, STUB_BYTES_MAX)
    except FileNotFoundError as error:
        raise UsageError(
            "no systemd stub",
            where=path,
            hint="Install systemd-boot-efi (Debian), or name the file: --stub",
        ) from error
    try:
        header = parse_header(stub)
    except FormatError as error:
        raise UsageError(f"the stub cannot be used: {error}", where=path) from error
    if len(stub) > STUB_BYTES_MAX:
        raise UsageError("stub is too large", where=path, expected=f"at most {STUB_BYTES_MAX} bytes")  # fmt: skip
    if header.machine != kernel.machine:
        raise UsageError(
            "stub and kernel are for different machines",
            where=path,
            expected=kernel.architecture,
            got=header.architecture,
        )
    return stub


def _uname(request: UkiRequest) -> str:
    """The kernel's version, as `uname -r` will say; empty where nothing tells it."""
    if request.uname is not None:
        try:
            check_line("--uname", request.uname, _UNAME_CHARS_MAX)
        except FormatError as error:
            raise UsageError(str(error)) from error
        return request.uname
    head = _read(request.linux, HEADER_BYTES_MAX)
    if head[_X86_MAGIC_AT : _X86_MAGIC_AT + 4] != b"HdrS":
        return ""
    (at,) = struct.unpack_from("<H", head, _X86_VERSION_AT)
    text = head[at + _X86_SETUP_BYTES :].split(b"\0", 1)[0].split(b" ", 1)[0] if at else b""
    return text.decode("ascii", "replace") if text.isascii() and len(text) <= _UNAME_CHARS_MAX else ""  # fmt: skip


def _splash(path: Path | None) -> tuple[Content, ...]:
    if path is None:
        return ()
    if _read(path, 1)[:2] != b"BM":
        raise UsageError("splash image is not a BMP file", where=path, expected="BM at its start")
    return (path,)
