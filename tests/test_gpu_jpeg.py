"""JPEG by nvImageCodec, here on the processor: what it takes, and how far its pixels are from the host's."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.driver import NoDevice
from models.preprocess import Preprocess
from service.decode import Decoded, Decoder
from service.errors import ServiceError
from service.executors import ExecutorError
from service.gpu.jpeg import JpegDecoder, open_decoder
from tests.gpu import needs_gpu
from tests.networks import preprocess_for

pytest.importorskip("nvidia.nvimgcodec", reason="nvidia-nvimgcodec-cu13 is not installed")

MAX_PIXELS = 1_000_000
BOUND = {"cpu": 0, "gpu": 4}
"""Levels of 255 by which a pixel may differ from the host's. On the processor the library is the same, libjpeg-turbo;
nvJPEG rounds its transform otherwise."""

Photographs = list[tuple[str, bytes]]


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=needs_gpu())])
def place(request: pytest.FixtureRequest) -> str:
    place: str = request.param
    return place


@pytest.fixture
def decoder(place: str) -> JpegDecoder:
    return JpegDecoder(None if place == "cpu" else 0, MAX_PIXELS)


def jpeg(size: tuple[int, int] = (37, 53), mode: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def host(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_difference_is_bounded(decoder: JpegDecoder, place: str, subsampling: str, progressive: bool) -> None:
    files = [jpeg(size, subsampling=subsampling, progressive=progressive) for size in ((37, 53), (64, 64), (1, 9))]
    for data, pixels in zip(files, decoder.decode(files), strict=True):
        assert pixels is not None
        assert np.abs(pixels - host(data)).max() <= BOUND[place]


def test_photographs(decoder: JpegDecoder, place: str, photographs: Photographs) -> None:
    decoded = decoder.decode([data for _, data in photographs])
    for (name, data), pixels in zip(photographs, decoded, strict=True):
        assert pixels is not None, name
        assert np.abs(pixels - host(data)).max() <= BOUND[place], name


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


@pytest.mark.parametrize(
    "make",
    [
        lambda: jpeg(mode="L"),
        lambda: jpeg(mode="CMYK"),
        turned,
        lambda: jpeg()[:-20],
        lambda: jpeg((1001, 1000)),
        lambda: b"",
        lambda: b"no image" + b"\xff\xd9",
    ],
    ids=["grey", "CMYK", "turned", "cut short", "too large", "empty", "no image"],
)
def test_what_is_left_to_the_host(decoder: JpegDecoder, make: Callable[[], bytes]) -> None:
    good = jpeg()
    first, second, third = decoder.decode([good, make(), good])
    assert second is None
    assert first is not None and third is not None


def test_the_pipeline_gives_the_same_with_it(decoder: JpegDecoder, place: str, photographs: Photographs) -> None:
    files = [*(data for _, data in photographs), turned(), jpeg()[:-20], b"no image"]
    preprocess = preprocess_for(64, 3)
    for got, expected in zip(decode(files, preprocess, decoder), decode(files, preprocess, None), strict=True):
        assert type(got) is type(expected)
        if isinstance(got, Decoded) and isinstance(expected, Decoded):
            assert (got.width, got.height, got.format) == (expected.width, expected.height, expected.format)
            assert np.abs(got.pixels.astype(int) - expected.pixels).max() <= BOUND[place]
        else:
            assert str(got) == str(expected)


class Broken:
    def decode(self, files: object) -> Any:
        raise RuntimeError("the device is gone")


def test_a_decoder_that_fails_leaves_it_to_the_host(photographs: Photographs) -> None:
    broken: Any = Broken()
    (decoded,) = decode([photographs[0][1]], preprocess_for(64, 3), broken)
    assert isinstance(decoded, Decoded)


def decode(files: list[bytes], preprocess: Preprocess, jpeg: JpegDecoder | None) -> list[Decoded | ServiceError]:
    decoder = Decoder(2, MAX_PIXELS, jpeg=jpeg)
    try:
        return asyncio.run(decoder.decode(files, preprocess))
    finally:
        decoder.close()


def test_without_a_gpu_it_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[object]:
        raise NoDevice("no NVIDIA driver")

    monkeypatch.setattr("models.driver.devices", none)
    with pytest.raises(ExecutorError, match="decode_gpu needs an NVIDIA GPU: no NVIDIA driver"):
        open_decoder(0, MAX_PIXELS)
    assert open_decoder(None, MAX_PIXELS) is None
    monkeypatch.setattr("models.driver.devices", lambda: [object()])
    with pytest.raises(ExecutorError, match="there is none with the number 1, only 0"):
        open_decoder(1, MAX_PIXELS)
