"""Sizes on the command line: `96MiB`, `1.5GiB`, `4096`."""

import re

import click

from slipstream.delta.limits import GIB, KIB, MIB

# For the help of every option that takes one.
UNITS_HELP = "In bytes, or with a unit: KiB, MiB, GiB."
UNITS = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


class Size(click.ParamType[int]):
    """A number of bytes with an optional binary unit."""

    name = "size"

    def convert(
        self,
        value: str | int,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|)", value)
        if match is None:
            self.fail(
                f"{value!r} is not a size; expected for example 96MiB, 2GiB or 4096", param, ctx
            )
        return int(float(match[1]) * UNITS[match[2]])


SIZE = Size()
