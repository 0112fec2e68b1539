"""Random access to bytes, for whoever reads an image or a partition: the Protocol alone."""

from typing import Protocol


class Reader(Protocol):
    """Random access to an image."""

    @property
    def size(self) -> int:
        """Bytes of the image."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; the range is within the image."""
        ...
