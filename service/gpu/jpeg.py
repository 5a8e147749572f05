"""JPEG files decoded by nvImageCodec, with nvJPEG where there is a GPU, into the host's memory.

Colour photographs as cameras and libraries write them. What is different in any way (another colour space, an
orientation, a file that is cut short) is left to the host's decoder, which also says what is wrong with a file.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from models import driver
from models.driver import NoDevice
from models.preprocess import UInt8Array
from service.executors import ExecutorError

_END = b"\xff\xd9"
_ORIENTATION = 0x0112
_UPRIGHT = 1
# Chroma is interpolated as the host's decoder does it.
_OPTIONS = ":fancy_upsampling=1"


class JpegDecoder:
    """Decodes batches of JPEG files; each thread has a decoder of its own.

    Args:
        device: number of the GPU; None decodes on the processor, with the same library.
        max_pixels: larger images are left to the host's decoder, which refuses them.

    Raises:
        ExecutorError: nvImageCodec is not installed, or cannot be used on that device.
    """

    def __init__(self, device: int | None, max_pixels: int) -> None:
        try:
            from nvidia import nvimgcodec
        except ImportError as error:
            raise ExecutorError(
                f"decoding on a GPU needs the package nvidia-nvimgcodec-cu13: install the extra gpu ({error})"
            ) from error
        self._codec: Any = nvimgcodec
        self._device = device
        self._max_pixels = max_pixels
        self._mine = threading.local()
        self._decoder()  # fails now, not with the first image

    def decode(self, files: Sequence[bytes]) -> list[UInt8Array | None]:
        """Decode files together.

        Returns:
            uint8 [height, width, 3] each; None for what the host's decoder has to look at.
        """
        suited = [index for index, data in enumerate(files) if self._suits(data)]
        decoded: list[UInt8Array | None] = [None] * len(files)
        if suited:
            images = self._decoder().decode([self._codec.CodeStream(files[index]) for index in suited])
            for index, image in zip(suited, images, strict=True):
                if image is not None:
                    decoded[index] = np.asarray(image.cpu())
        return decoded

    def _suits(self, data: bytes) -> bool:
        if not data.endswith(_END):  # cut short: some decoders fill the rest with grey
            return False
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # reads the header only
                return (
                    image.mode == "RGB"
                    and image.width * image.height <= self._max_pixels
                    and image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT
                )
        except Exception:  # whatever is wrong with it, the host's decoder says so
            return False

    def _decoder(self) -> Any:
        if not hasattr(self._mine, "decoder"):
            codec = self._codec
            try:
                if self._device is None:
                    backends = [codec.Backend(codec.BackendKind.CPU_ONLY)]
                    made = codec.Decoder(
                        device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=backends, options=_OPTIONS
                    )
                else:
                    made = codec.Decoder(device_id=self._device, options=_OPTIONS)
            except RuntimeError as error:
                raise ExecutorError(f"nvImageCodec cannot be used: {error}") from error
            self._mine.decoder = made
        return self._mine.decoder


def open_decoder(gpu: int | None, max_pixels: int) -> JpegDecoder | None:
    """The decoder on a GPU; None where none is asked for.

    Raises:
        ExecutorError: there is no such GPU, or no nvImageCodec.
    """
    if gpu is None:
        return None
    try:
        driver.device(gpu)
    except NoDevice as error:
        raise ExecutorError(f"decode_gpu needs an NVIDIA GPU: {error}") from error
    return JpegDecoder(gpu, max_pixels)
