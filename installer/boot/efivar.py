"""What the boot loader tells the operating system: EFI variables of the loader interface.

Pure: bytes in, values out. A variable read through efivarfs is 4 bytes of attributes and the
value; strings are UTF-16LE with a NUL (systemd, "The Boot Loader Interface"). A simulated
device may have a plain text file in their place: that is accepted too.
"""

from slipstream.delta.errors import FormatError

LOADER_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
LOADER_STRING_BYTES_MAX = 4096  # names of entries: far below; keeps a hostile file small
FEATURE_BOOT_COUNTING = 1 << 4  # LoaderFeatures, EFI_LOADER_FEATURE_BOOT_COUNTING

_ATTRIBUTES = b"\x06\x00\x00\x00"  # boot service and runtime access, volatile


def parse_loader_string(raw: bytes) -> str:
    """The string of an EFI variable, or of a plain text file.

    Raises FormatError for what is neither. They cannot be mistaken for each other: a text
    file has no NUL, an EFI string has one in its attributes.
    """
    if len(raw) > LOADER_STRING_BYTES_MAX:
        raise FormatError(
            "EFI string is too long", expected=f"<= {LOADER_STRING_BYTES_MAX}", got=len(raw)
        )
    try:
        if b"\0" not in raw:
            return raw.decode("utf-8").strip()
        text = raw[4:].decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise FormatError("not an EFI string", got=raw[:32].hex()) from error
    if not text.endswith("\0") or "\0" in text[:-1]:
        raise FormatError("EFI string does not end in one NUL", got=raw[:32].hex())
    return text[:-1]


def dump_loader_string(text: str) -> bytes:
    """An EFI variable that holds `text`, as efivarfs shows it."""
    return _ATTRIBUTES + (text + "\0").encode("utf-16-le")


def parse_loader_features(raw: bytes) -> int:
    """The bits of LoaderFeatures: attributes and 64 bits. Raises FormatError."""
    if len(raw) != 12:
        raise FormatError("not an EFI variable of 64 bits", expected="12 bytes", got=len(raw))
    return int.from_bytes(raw[4:], "little")
