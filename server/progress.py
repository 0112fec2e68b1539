"""What a long job tells while it runs: phases, each in bytes; and words, now and then."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

# What is being done, how many bytes of it are done, how many there are.
Progress: TypeAlias = Callable[[str, int, int], None]
Say: TypeAlias = Callable[[str], None]


def unwatched(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


def unheard(_words: str) -> None:
    """Nobody listens."""


def told(
    results: Iterable[T], sizes: Iterable[int], what: str, total: int, on_progress: Progress
) -> Iterator[T]:
    """The same results; with each, that as many bytes more of `what` are done."""
    done = 0
    for result, size in zip(results, sizes, strict=True):
        done += size
        on_progress(what, done, total)
        yield result
