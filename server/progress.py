"""What a long job tells while it runs: phases, each in bytes; and words, now and then."""

from collections.abc import Callable
from typing import TypeAlias

# What is being done, how many bytes of it are done, how many there are.
Progress: TypeAlias = Callable[[str, int, int], None]
Say: TypeAlias = Callable[[str], None]


def unwatched(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


def unheard(_words: str) -> None:
    """Nobody listens."""
