"""Images that a GPU decodes for the answering side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.priority import Priority


class DecodedImage(NamedTuple):
    """A JPEG file, decoded, resized and cropped."""

    pixels: UInt8Array
    """uint8 [H, W, 3]."""
    width: int
    """Of the upright image, in pixels."""
    height: int


class GpuDecoder(Protocol):
    """Decodes the JPEG files of many requests together."""

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> Sequence[DecodedImage | None]:
        """Decode image files; None in place of a file that the GPU does not take."""
        ...

    def close(self) -> None:
        """Wait for the files that are being decoded, then free the device."""
        ...
