"""nvImageCodec on a GPU without one: the real library decodes on the CPU, and its images lie on `fake_cuda`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia import nvimgcodec as real

from tests.support.fake_cuda import FakeRuntime, Work

PADDING = 7
"""Bytes behind each row, as GPUs' decoders leave some."""


class FakeCodec:
    """Stands in for the module `nvidia.nvimgcodec`."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.CodeStream = real.CodeStream
        self.batches: list[int] = []
        """Files of each call."""
        self._runtime = runtime

    def Decoder(self, device_id: int, options: str) -> _Decoder:
        return _Decoder(self, self._runtime, options)


class _Decoder:
    def __init__(self, codec: FakeCodec, runtime: FakeRuntime, options: str) -> None:
        self._codec = codec
        self._runtime = runtime
        backends = [real.Backend(real.BackendKind.CPU_ONLY)]
        self._decoder = real.Decoder(device_id=real.NVIMGCODEC_DEVICE_CPU_ONLY, backends=backends, options=options)

    def decode(self, srcs: Sequence[Any], cuda_stream: int = 0) -> list[_Image | None]:
        self._codec.batches.append(len(srcs))
        decoded = self._decoder.decode(srcs)
        return [None if image is None else _Image(image, self._runtime, cuda_stream) for image in decoded]


class _Image:
    """Its pixels are there only once the stream has come so far."""

    def __init__(self, image: Any, runtime: FakeRuntime, stream: int) -> None:
        pixels = np.asarray(image.cpu())
        self.height, self.width, channels = pixels.shape
        self._pitch = self.width * channels + PADDING
        self._memory = np.full((self.height, self._pitch), 0xA5, np.uint8)
        rows = self._memory[:, : self.width * channels]
        runtime.enqueue(stream, Work("compute", lambda: np.copyto(rows, pixels.reshape(self.height, -1))))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.height, self.width, 3),
            "strides": (self._pitch, 3, 1),
            "typestr": "|u1",
            "data": (self._memory.ctypes.data, False),
            "version": 3,
        }
