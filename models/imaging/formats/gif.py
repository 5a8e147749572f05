"""Opens GIF files."""

from __future__ import annotations

from PIL import GifImagePlugin

SIGNATURES = (b"GIF87a", b"GIF89a")


class GifImage(GifImagePlugin.GifImageFile):
    """Pillow's reader of the first frame alone.

    To clear a frame before the next one, Pillow fills an image of its size when it opens the file, before the size can
    be checked: a file of 50 bytes can take 4 GB.
    """

    @property
    def disposal_method(self) -> int:
        """What happens to the pixels of a frame before the next frame: nothing."""
        return 0

    @disposal_method.setter
    def disposal_method(self, _: int) -> None:
        pass
