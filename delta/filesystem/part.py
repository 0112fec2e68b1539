"""A part of an image as an image of its own: a partition, or the whole with its border guarded.

File system readers read through a Part only. Offsets come from the image, so a read outside it is
the image's fault: FormatError, not the reader's own complaint.
"""

from slipstream.delta.errors import FormatError
from slipstream.delta.reader import Reader


class Part:
    """A Reader of `size` bytes of `image` from `offset` on. The range is within the image."""

    def __init__(self, image: Reader, offset: int, size: int) -> None:
        if not 0 <= offset <= offset + size <= image.size:
            raise FormatError(
                "a part outside the image",
                expected=f"within 0..{image.size}",
                got=f"offset {offset}, size {size}",
            )
        self._image = image
        self._offset = offset
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset` of the part on; FormatError if they are not in it."""
        if not 0 <= offset <= offset + size <= self.size:
            raise FormatError(
                "the image ends before what it points to",
                expected=f"within 0..{self.size}",
                got=f"offset {offset}, size {size}",
            )
        return self._image.read(self._offset + offset, size)
