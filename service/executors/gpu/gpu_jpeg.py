"""Decodes JPEG files with nvImageCodec (nvJPEG), and resizes and crops them, both on the GPU.

The decoder takes colour photographs as cameras and libraries write them. The decoder of the host takes all other files
(another colour space, an orientation, a truncated file), and reports errors in files.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from models.extras import missing
from models.imaging.formats import jpeg
from models.imaging.preprocess import Geometry, UInt8Array
from models.runtime import cuda_driver
from models.runtime.cuda import CudaError
from models.runtime.cuda_driver import NoDevice
from service.executors.base import ExecutorError
from service.messages.decoding import DecodedImage

if TYPE_CHECKING:
    from models.runtime.cuda.device import CudaDevice, Kernels

_END, _SCAN = b"\xff\xd9", b"\xff\xda"
_JFIF = slice(6, 11), b"JFIF\0"
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_UPRIGHT = 1
# Chroma is interpolated as in the decoder of the host.
_OPTIONS = ":fancy_upsampling=1"
_MIN_SIDE = 16
"""Pixels: in smaller images with halved chroma, the decoder of the GPU interpolates in another way."""
_MAX_PIXELS_TOGETHER = 64_000_000
"""Pixels that are decoded together, of 3 bytes each."""


class JpegDecoder:
    """Decodes batches of JPEG files; each thread has a decoder of its own.

    Args:
        gpu: number of the GPU; None decodes on the CPU, with the same library, and resizes with Pillow.
        max_pixels: larger images are left to the decoder of the host, which refuses them.

    Raises:
        ExecutorError: a package is not installed, or nvImageCodec cannot be used on that device.
    """

    def __init__(self, gpu: int | None, max_pixels: int) -> None:
        try:
            from nvidia import nvimgcodec
        except ImportError as error:
            raise ExecutorError(f"{missing('decoding on a GPU', 'nvidia-nvimgcodec-cu13', 'gpu')} ({error})") from error
        self._codec: Any = nvimgcodec
        self._max_pixels = max_pixels
        self._local = threading.local()
        self._device: CudaDevice | None = None
        self._kernels: Kernels | None = None
        try:
            if gpu is not None:
                from models.runtime.cuda import device as cuda
                from service.executors.gpu import gpu_resize

                self._device = cuda.CudaDevice(gpu)
                self._kernels = gpu_resize.load(self._device)
            self._backend()  # fails now, not at the first image
        except (CudaError, ImportError, RuntimeError) as error:
            self.close()
            raise ExecutorError(f"decode_gpu: images cannot be decoded on GPU {gpu}: {error}") from error

    def decode(self, files: Sequence[bytes], geometry: Geometry) -> list[DecodedImage | None]:
        """Decode files together.

        Returns:
            Each image as `geometry.apply` returns it; None for a file that the decoder of the host has to take.

        Raises:
            Exception: the device fails.
        """
        backend = self._backend()
        streams = [self._stream(data) for data in files]
        results: list[DecodedImage | None] = [None] * len(files)
        for indices in _batches(streams, backend, geometry):
            decoded = backend.decode([streams[index] for index in indices])
            found = [(index, image) for index, image in zip(indices, decoded, strict=True) if image is not None]
            pixels = backend.resize([image for _, image in found], geometry) if found else ()
            for (index, image), resized in zip(found, pixels, strict=True):
                results[index] = DecodedImage(resized, image.width, image.height)
        return results

    def close(self) -> None:
        """Free the device. No other thread may be decoding."""
        self._local = threading.local()
        if self._device is not None:
            self._device.close()

    def _stream(self, data: bytes) -> Any:
        """A file with its header read; None if this decoder does not take it."""
        if not data.endswith(_END):  # truncated: some decoders fill the rest with grey
            return None
        try:
            stream = self._codec.CodeStream(data)
            suits = (
                stream.codec_name == "jpeg"
                and stream.num_channels == 3
                and min(stream.width, stream.height) >= _MIN_SIDE
                and stream.width * stream.height <= self._max_pixels
                and data.count(_SCAN) <= jpeg.MAX_SCANS
                and _is_usual(data)
            )
        except Exception:  # the decoder of the host reports the error
            return None
        return stream if suits else None

    def _backend(self) -> _Backend:
        backend: _Backend | None = getattr(self._local, "backend", None)
        if backend is None:
            if self._device is None or self._kernels is None:
                backend = _HostBackend(self._codec)
            else:
                backend = _GpuBackend(self._codec, self._device, self._kernels)
            self._local.backend = backend
        return backend


def _is_usual(data: bytes) -> bool:
    """Whether a colour file has luminance and chrominance of an upright image, as nearly all files have."""
    position, name = _JFIF
    if data[position] == name and _EXIF not in data:  # by definition of the format
        return True
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # reads the header only, and takes ten times as long
        upright = image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT
        # As libjpeg decides it: https://libjpeg-turbo.org, jdapimin.c, default_decompress_parms
        numbers = [component[0] for component in image.layer]  # type: ignore[attr-defined]
        return upright and ("jfif" in image.info or (image.info.get("adobe_transform") == 1 or numbers == [1, 2, 3]))


def _batches(streams: Sequence[Any], backend: _Backend, geometry: Geometry) -> Iterator[list[int]]:
    """Indices of the files that are decoded here, in batches that fit into the memory of the device."""
    indices: list[int] = []
    held = 0
    for index, stream in enumerate(streams):
        if stream is None or not backend.takes(stream.width, stream.height, geometry):
            continue
        pixels = stream.width * stream.height
        if indices and held + pixels > _MAX_PIXELS_TOGETHER:
            yield indices
            indices, held = [], 0
        indices.append(index)
        held += pixels
    if indices:
        yield indices


class _Backend(Protocol):
    """Decodes and resizes for one thread."""

    def takes(self, width: int, height: int, geometry: Geometry) -> bool:
        """Whether images of this size are resized exactly as on the host."""
        ...

    def decode(self, streams: Sequence[Any]) -> Sequence[Any]:
        """Images of nvImageCodec; None for a file that it cannot decode."""
        ...

    def resize(self, images: Sequence[Any], geometry: Geometry) -> Sequence[UInt8Array]:
        """Each image as `geometry.apply` returns it."""
        ...


class _GpuBackend:
    def __init__(self, codec: Any, device: CudaDevice, kernels: Kernels) -> None:
        from service.executors.gpu import gpu_resize

        device.use()
        self._image = gpu_resize.DeviceImage.of
        self._resizer = gpu_resize.Resizer(device, kernels)
        self._decoder = codec.Decoder(device_id=device.index, options=_OPTIONS)
        self.takes = gpu_resize.takes

    def decode(self, streams: Sequence[Any]) -> Sequence[Any]:
        decoded: Sequence[Any] = self._decoder.decode(streams, cuda_stream=self._resizer.stream)
        return decoded

    def resize(self, images: Sequence[Any], geometry: Geometry) -> Sequence[UInt8Array]:
        return list(self._resizer.apply([self._image(image) for image in images], geometry).copy())


class _HostBackend:
    def __init__(self, codec: Any) -> None:
        only = [codec.Backend(codec.BackendKind.CPU_ONLY)]
        self._decoder = codec.Decoder(device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=only, options=_OPTIONS)

    def takes(self, width: int, height: int, geometry: Geometry) -> bool:
        return True

    def decode(self, streams: Sequence[Any]) -> Sequence[Any]:
        decoded: Sequence[Any] = self._decoder.decode(streams)
        return decoded

    def resize(self, images: Sequence[Any], geometry: Geometry) -> Sequence[UInt8Array]:
        return [geometry.apply(Image.fromarray(np.asarray(image.cpu()))) for image in images]


def open_decoder(gpu: int | None, max_pixels: int) -> JpegDecoder | None:
    """The decoder on a GPU; None if `gpu` is None.

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
