"""Durations on the command line: `90s`, `10m`, `2h`, `3d`."""

import re

import click

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """Whole seconds, from a number with a unit."""

    name = "duration"

    def convert(
        self,
        value: str | int,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", value)
        if match is None:
            self.fail(
                f"{value!r} is not a duration; expected a number and its unit: 0s, 90s, 10m, 2h, 3d",
                param,
                ctx,
            )
        return round(float(match[1]) * UNITS[match[2]])


DURATION = Duration()
