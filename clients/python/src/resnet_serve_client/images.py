"""Images as files: from paths, bytes, file objects, arrays and Pillow images."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resnet_serve_client.errors import UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PillowImage


class BinaryFile(Protocol):
    """A file that is open in binary mode."""

    def read(self) -> bytes:
        """Read up to the end."""
        ...


Image: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | NDArray[np.uint8] | PillowImage"
)
"""An image: the path of a file, the content of a file, an open file, an array uint8 [height, width, 3] (RGB), [height,
width] (grey) or [height, width, 4] (RGBA), or a Pillow image."""

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
"""Modes of Pillow that a PNG file keeps as they are."""


def load(image: Image) -> bytes:
    """The content of an image file. Arrays and Pillow images become PNG files, without loss.

    Raises:
        UnreadableImage: the image cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _read_path(image)
    if hasattr(image, "save") and hasattr(image, "mode"):  # before arrays: a Pillow image also describes its memory
        return _encode(image)
    if hasattr(image, "__array_interface__"):
        return _encode_array(image)
    if hasattr(image, "read"):
        return _read_file(image)
    raise UnreadableImage(
        f"an image cannot be a {type(image).__name__}: give a path, the bytes of a file, an open file, "
        "an array uint8 [height, width, 3], or a Pillow image"
    )


def _read_path(path: str | os.PathLike[str]) -> bytes:
    if str(path).startswith(("http://", "https://", "data:")):
        raise UnreadableImage("URLs are never fetched: download the image, and give its bytes")
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImage(f"{os.fspath(path)} cannot be read: {reason}") from error


def _read_file(file: BinaryFile) -> bytes:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise UnreadableImage(f"the file cannot be read: {error}") from error
    if not isinstance(content, bytes):
        raise UnreadableImage('the file is open as text: open it with mode "rb"')
    return content


def _encode_array(array: Any) -> bytes:
    shape = tuple(array.shape)
    if array.dtype != "uint8" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise UnreadableImage(
            f"an array must be uint8 [height, width, 3] with values from 0 to 255, or [height, width] for grey, not "
            f"{array.dtype} {list(shape)}"
        )
    if 0 in shape:
        raise UnreadableImage(f"an array of the shape {list(shape)} has no pixels")
    module = _pillow()
    return _encode(module.fromarray(array[:, :, 0] if shape[2:] == (1,) else array))


def _encode(image: Any) -> bytes:
    from PIL import ImageOps

    try:
        # As the service shows a file: upright.
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        file = io.BytesIO()
        upright.save(file, "PNG", compress_level=1)
    except Exception as error:  # Pillow's errors for damaged and closed files are of many classes
        raise UnreadableImage(f"the Pillow image cannot be saved: {error}") from error
    return file.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image as module
    except ImportError:
        raise UnreadableImage("arrays need Pillow: pip install 'resnet-serve-client[images]', or give files") from None
    return module
