"""The command line."""

import click


@click.group()
def main() -> None:
    """Over-the-air updates for Linux devices."""
