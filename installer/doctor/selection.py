"""Findings in what chooses among the boot entries, so that none is counted. Pure."""

import shlex
from collections.abc import Iterator, Mapping

from slipstream.delta.os_release import read_pairs
from slipstream.installer.boot.chooser import LOADER_CONF
from slipstream.installer.boot.preflight import SIGN_FIRST
from slipstream.installer.doctor.finding import Check, EspName, Finding, Severity
from slipstream.installer.doctor.menu import TEXT_BYTES_MAX, Boots, EspFile

_CLEAR = {
    "LoaderEntryDefault": "bootctl set-default ''",
    # No verb before systemd 260, whose boot loaders do not read the variable either.
    "LoaderEntryPreferred": "bootctl set-preferred ''",
    "LoaderEntryOneShot": "bootctl set-oneshot ''",
}
# A setting of loader.conf that goes before the counted entries, and what comes of it.
_HARM = {
    "default": "a release that never comes up is started for ever",
    # It passes over entries without tries left.
    "preferred": "a new release is never started",
}


def selection_findings(
    files: Mapping[str, EspFile], boots: Boots, esp: EspName
) -> Iterator[Finding]:
    """What goes before the counted entries, so that nothing is counted (systemd issue 31215)."""
    conf = files.get(LOADER_CONF.as_posix().lower())
    settings = {} if conf is None else dict(read_pairs(conf.read(0, TEXT_BYTES_MAX), " \t"))
    for key, harm in _HARM.items():
        if conf is None or key not in settings:
            continue
        path = esp.path(conf.path)
        yield Finding(
            Check.DEFAULT_SET,
            Severity.FAULT,
            path,
            f"{key} {settings[key]}: goes before the counted entries, {harm}",
            f"sed -i '/^[[:space:]]*{key}[[:space:]]/d' {shlex.quote(path)}",
        )
    if boots.override is not None:
        variable, value = boots.override
        yield Finding(
            Check.DEFAULT_SET,
            Severity.FAULT,
            variable,
            f"is set to {value!r}: it goes before the counted entries",
            _CLEAR[variable],
        )
    if boots.counts is False:
        yield Finding(
            Check.NO_COUNTING,
            Severity.FAULT,
            "LoaderFeatures",
            "the boot loader does not count tries: a bad release would never be left",
            f"bootctl update{SIGN_FIRST}",
        )
