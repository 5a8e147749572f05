"""JPEG files decoded by nvImageCodec, with nvJPEG, and brought to a network's geometry, both on the GPU.

Colour photographs as cameras and libraries write them. What is different in any way (another colour space, an
orientation, a file that is cut short) is left to the host's decoder, which also says what is wrong with a file.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from models.imaging.preprocess import Geometry, UInt8Array
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from service.executors.base import ExecutorError
from service.executors.cuda import CudaError
from service.messages.decoding import DecodedImage

if TYPE_CHECKING:
    from service.executors.cuda.device import Device, Kernels

_END = b"\xff\xd9"
_JFIF = slice(6, 11), b"JFIF\0"
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_UPRIGHT = 1
# Chroma is interpolated as the host's decoder does it.
_OPTIONS = ":fancy_upsampling=1"
_LEAST_SIDE = 16
"""Pixels; of smaller images with halved chroma, one block, the GPU's decoder interpolates otherwise."""
_MOST_PIXELS = 64_000_000
"""Decoded together, of 3 bytes each."""


class JpegDecoder:
    """Decodes batches of JPEG files; each thread has a decoder of its own.

    Args:
        gpu: number of the GPU; None decodes on the processor, with the same library, and resizes with Pillow.
        max_pixels: larger images are left to the host's decoder, which refuses them.

    Raises:
        ExecutorError: a package is not installed, or nvImageCodec cannot be used on that device.
    """

    def __init__(self, gpu: int | None, max_pixels: int) -> None:
        try:
            from nvidia import nvimgcodec
        except ImportError as error:
            raise ExecutorError(
                f"decoding on a GPU needs the package nvidia-nvimgcodec-cu13: install the extra gpu ({error})"
            ) from error
        self._codec: Any = nvimgcodec
        self._max_pixels = max_pixels
        self._mine = threading.local()
        self._device: Device | None = None
        self._kernels: Kernels | None = None
        try:
            if gpu is not None:
                from service.executors.cuda import device as cuda
                from service.executors.cuda import gpu_resize

                self._device = cuda.Device(gpu)
                self._kernels = gpu_resize.load(self._device)
            self._lane()  # fails now, not with the first image
        except (CudaError, ImportError, RuntimeError) as error:
            self.close()
            raise ExecutorError(f"decode_gpu: images cannot be decoded on GPU {gpu}: {error}") from error

    def decode(self, files: Sequence[bytes], geometry: Geometry) -> list[DecodedImage | None]:
        """Decode files together.

        Returns:
            Each as `geometry.apply` gives it; None for what the host's decoder has to look at.

        Raises:
            Exception: the device fails.
        """
        lane = self._lane()
        streams = [self._stream(data) for data in files]
        cuts: list[DecodedImage | None] = [None] * len(files)
        for indices in _together(streams, lane, geometry):
            decoded = lane.decode([streams[index] for index in indices])
            found = [(index, image) for index, image in zip(indices, decoded, strict=True) if image is not None]
            pixels = lane.cut([image for _, image in found], geometry) if found else ()
            for (index, image), cut in zip(found, pixels, strict=True):
                cuts[index] = DecodedImage(cut, image.width, image.height)
        return cuts

    def close(self) -> None:
        """Free what is on the device; nothing may be being decoded."""
        self._mine = threading.local()
        if self._device is not None:
            self._device.close()

    def _stream(self, data: bytes) -> Any:
        """A file whose header has been read; None where it is not for this decoder."""
        if not data.endswith(_END):  # cut short: some decoders fill the rest with grey
            return None
        try:
            stream = self._codec.CodeStream(data)
            suits = (
                stream.codec_name == "jpeg"
                and stream.num_channels == 3
                and min(stream.width, stream.height) >= _LEAST_SIDE
                and stream.width * stream.height <= self._max_pixels
                and _is_usual(data)
            )
        except Exception:  # whatever is wrong with it, the host's decoder says so
            return None
        return stream if suits else None

    def _lane(self) -> _Lane:
        lane: _Lane | None = getattr(self._mine, "lane", None)
        if lane is None:
            if self._device is None or self._kernels is None:
                lane = _OnHost(self._codec)
            else:
                lane = _OnDevice(self._codec, self._device, self._kernels)
            self._mine.lane = lane
        return lane


def _is_usual(data: bytes) -> bool:
    """Whether a file in colour holds luminance and chrominance, as nearly all do, of an upright image."""
    place, name = _JFIF
    if data[place] == name and _EXIF not in data:  # then by definition
        return True
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # reads the header only, in ten times the time
        upright = image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT
        # As libjpeg decides it: https://libjpeg-turbo.org, jdapimin.c, default_decompress_parms
        numbers = [component[0] for component in image.layer]  # type: ignore[attr-defined]
        return upright and ("jfif" in image.info or (image.info.get("adobe_transform") == 1 or numbers == [1, 2, 3]))


def _together(streams: Sequence[Any], lane: _Lane, geometry: Geometry) -> Iterator[list[int]]:
    """The files that are decoded here, as many at a time as the device's memory is to hold."""
    indices: list[int] = []
    held = 0
    for index, stream in enumerate(streams):
        if stream is None or not lane.takes(stream.width, stream.height, geometry):
            continue
        pixels = stream.width * stream.height
        if indices and held + pixels > _MOST_PIXELS:
            yield indices
            indices, held = [], 0
        indices.append(index)
        held += pixels
    if indices:
        yield indices


class _Lane(Protocol):
    """What a thread decodes with."""

    def takes(self, width: int, height: int, geometry: Geometry) -> bool:
        """Whether images of that size are brought to the geometry exactly."""
        ...

    def decode(self, streams: Sequence[Any]) -> Sequence[Any]:
        """nvImageCodec's images; None for a file that it cannot decode."""
        ...

    def cut(self, images: Sequence[Any], geometry: Geometry) -> Sequence[UInt8Array]:
        """What `geometry.apply` gives of each."""
        ...


class _OnDevice:
    def __init__(self, codec: Any, device: Device, kernels: Kernels) -> None:
        from service.executors.cuda import gpu_resize

        device.use()
        self._image = gpu_resize.DeviceImage.of
        self._resizer = gpu_resize.Resizer(device, kernels)
        self._decoder = codec.Decoder(device_id=device.index, options=_OPTIONS)
        self.takes = gpu_resize.takes

    def decode(self, streams: Sequence[Any]) -> Sequence[Any]:
        decoded: Sequence[Any] = self._decoder.decode(streams, cuda_stream=self._resizer.stream)
        return decoded

    def cut(self, images: Sequence[Any], geometry: Geometry) -> Sequence[UInt8Array]:
        return list(self._resizer.apply([self._image(image) for image in images], geometry).copy())


class _OnHost:
    def __init__(self, codec: Any) -> None:
        only = [codec.Backend(codec.BackendKind.CPU_ONLY)]
        self._decoder = codec.Decoder(device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=only, options=_OPTIONS)

    def takes(self, width: int, height: int, geometry: Geometry) -> bool:
        return True

    def decode(self, streams: Sequence[Any]) -> Sequence[Any]:
        decoded: Sequence[Any] = self._decoder.decode(streams)
        return decoded

    def cut(self, images: Sequence[Any], geometry: Geometry) -> Sequence[UInt8Array]:
        return [geometry.apply(Image.fromarray(np.asarray(image.cpu()))) for image in images]


def open_decoder(gpu: int | None, max_pixels: int) -> JpegDecoder | None:
    """The decoder on a GPU; None where none is asked for.

    Raises:
        ExecutorError: there is no such GPU, or no nvImageCodec.
    """
    if gpu is None:
        return None
    try:
        cuda_driver.device(gpu)
    except NoDevice as error:
        raise ExecutorError(f"decode_gpu needs an NVIDIA GPU: {error}") from error
    return JpegDecoder(gpu, max_pixels)
