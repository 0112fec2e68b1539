"""What runs now, in the words of the kernel command line and of the boot loader.

Reads two files: the kernel command line, and the EFI variable LoaderEntrySelected with its
neighbours. A simulated device has plain text files in their place.
"""

from pathlib import Path

from slipstream.delta.cmdline import parse_root
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, FormatError
from slipstream.installer.boot.efivar import (
    FEATURE_BOOT_COUNTING,
    parse_loader_features,
    parse_loader_string,
)
from slipstream.installer.boot.entry import EntryName, parse_entry_name
from slipstream.installer.boot.esp import translated

_SELECTED = "LoaderEntrySelected"


class LoaderWord:
    """The two files. Raises DeviceFault."""

    def __init__(self, cmdline: Path, selected: Path | None) -> None:
        self._cmdline = cmdline
        self._selected = selected

    def root(self) -> Digest | None:
        """The root hash that the kernel was started with."""
        with translated("cannot read the kernel command line", self._cmdline):
            try:
                return parse_root(self._cmdline.read_text("utf-8", "replace"))
            except FileNotFoundError:
                return None

    def selected(self) -> EntryName | None:
        """The entry that the boot loader started; None if it does not say, or is not ours.

        The tries in it are those from before the boot loader counted this start.
        """
        raw = self._variable(_SELECTED)
        return None if raw is None else parse_entry_name(self._string(_SELECTED, raw))

    def override(self) -> tuple[str, str] | None:
        """A variable that goes before the counted entries, and its value; None if none is set."""
        for variable in ("LoaderEntryDefault", "LoaderEntryPreferred", "LoaderEntryOneShot"):
            raw = self._variable(variable)
            value = "" if raw is None else self._string(variable, raw)
            if value:
                return variable, value
        return None

    def version(self) -> str:
        """Boot loader and firmware in their own words; empty where they say nothing."""
        words = []
        for variable in ("LoaderInfo", "LoaderFirmwareInfo"):
            raw = self._variable(variable)
            words.append("" if raw is None else self._string(variable, raw))
        return "; ".join(word for word in words if word)

    def counts_tries(self) -> bool | None:
        """Whether the boot loader says that it counts tries; None if it says nothing."""
        raw = self._variable("LoaderFeatures")
        if raw is None:
            return None
        try:
            return bool(parse_loader_features(raw) & FEATURE_BOOT_COUNTING)
        except FormatError as error:
            raise self._strange("LoaderFeatures", error) from error

    def _string(self, variable: str, raw: bytes) -> str:
        try:
            return parse_loader_string(raw)
        except FormatError as error:
            raise self._strange(variable, error) from error

    def _strange(self, variable: str, error: FormatError) -> DeviceFault:
        return DeviceFault(
            f"cannot understand the boot loader's variable {variable}",
            where=self._selected,
            got=error,
            hint="Is [boot] entry the EFI variable LoaderEntrySelected of systemd-boot?",
        )

    def _variable(self, variable: str) -> bytes | None:
        if self._selected is None:
            return None
        path = self._selected
        if variable != _SELECTED:
            if not path.name.startswith(_SELECTED):
                return None  # a simulated device: one plain file, no neighbours
            path = path.with_name(variable + path.name.removeprefix(_SELECTED))
        with translated("cannot read EFI variable", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None
