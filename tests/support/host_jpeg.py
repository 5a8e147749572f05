"""A decoder of JPEG files in place of that of a GPU."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from threading import Event

from PIL import Image

from models.imaging.preprocess import Geometry
from service.messages.decoding import DecodedImage

TIMEOUT = 60


class HostJpeg:
    """Decodes with Pillow; takes files of colour images only.

    Args:
        held: whether calls wait until `go_on` is set.
        error: raised by each call; None for none.
    """

    def __init__(self, held: bool = False, error: Exception | None = None) -> None:
        self.begun, self.go_on = Event(), Event()
        if not held:
            self.go_on.set()
        self.error = error
        self.calls: list[tuple[int, int]] = []
        """Thread and number of files of each call."""
        self.sizes: set[tuple[int, int]] = set()
        """Width and height of the images."""

    def decode(self, files: Sequence[bytes], geometry: Geometry) -> list[DecodedImage | None]:
        """As `JpegDecoder.decode`."""
        self.calls.append((threading.get_ident(), len(files)))
        self.begun.set()
        assert self.go_on.wait(TIMEOUT)
        if self.error is not None:
            raise self.error
        return [self._decode(data, geometry) for data in files]

    def _decode(self, data: bytes, geometry: Geometry) -> DecodedImage | None:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode != "RGB" or image.format != "JPEG":
                return None
            self.sizes.add(image.size)
            return DecodedImage(geometry.apply(image), *image.size)

    def close(self) -> None:
        """Do nothing."""
