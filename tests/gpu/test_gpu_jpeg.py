"""JPEG files decoded by nvImageCodec: which files it takes, and the difference of its pixels to those of the host.

On the CPU, where the library decodes with libjpeg-turbo; on a fake GPU, whose kernels run on the CPU; and on a real
GPU.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.imaging.preprocess import Geometry, Preprocess
from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device, NoDevice
from service.core.errors import ServiceError
from service.core.priority import Priority
from service.decoding.decoder import DecodedFile, Decoder
from service.executors.base import ExecutorError
from service.executors.gpu import gpu_jpeg
from service.executors.gpu.gpu_batcher import DecodeBatcher
from service.executors.gpu.gpu_jpeg import JpegDecoder, open_decoder
from tests.support import fake_kernels
from tests.support.fake_cuda import FakeRuntime
from tests.support.fake_gpu import CAPABILITY, NAME
from tests.support.geometry import preprocess_for
from tests.support.gpu import needs_gpu

pytest.importorskip("nvidia.nvimgcodec", reason="nvidia-nvimgcodec-cu13 is not installed")

MAX_PIXELS = 1_000_000
BOUND = {"cpu": 0, "fake": 0, "gpu": 4}
"""Levels of 255 by which a pixel may differ from the host. On the CPU the library is the same, libjpeg-turbo; nvJPEG
rounds its transform in another way."""

Photographs = list[tuple[str, bytes]]


@pytest.fixture(params=["cpu", "fake", pytest.param("gpu", marks=needs_gpu())])
def place(request: pytest.FixtureRequest) -> str:
    place: str = request.param
    return place


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, JpegDecoder]]:
    """Decoders with the real libraries, each made once: on a GPU this takes seconds."""
    kept: dict[str, JpegDecoder] = {}
    yield kept
    for decoder in kept.values():
        decoder.close()


@pytest.fixture
def decoder(place: str, made: dict[str, JpegDecoder], monkeypatch: pytest.MonkeyPatch) -> Iterator[JpegDecoder]:
    if place != "fake":
        if place not in made:
            made[place] = JpegDecoder(None if place == "cpu" else 0, MAX_PIXELS)
        yield made[place]
        return
    from tests.support.fake_codec import FakeCodec

    runtime = FakeRuntime()
    loaded = fake_kernels.install(monkeypatch, runtime)
    monkeypatch.setattr("nvidia.nvimgcodec", FakeCodec(runtime), raising=False)
    decoder = JpegDecoder(0, MAX_PIXELS)
    yield decoder
    decoder.close()
    assert runtime.allocations == loaded.loaded == 0


def jpeg(size: tuple[int, int] = (37, 53), mode: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def whole(data: bytes) -> Geometry:
    """Does not change an image."""
    width, height = Image.open(io.BytesIO(data)).size
    return Geometry(size=(height, width))


def difference(decoder: JpegDecoder, data: bytes, geometry: Geometry) -> int:
    """Largest difference to the pixels of the host."""
    (cut,) = decoder.decode([data], geometry)
    assert cut is not None
    image = Image.open(io.BytesIO(data))
    assert (cut.width, cut.height) == image.size
    return int(np.abs(cut.pixels.astype(int) - geometry.apply(image.convert("RGB"))).max())


@pytest.mark.slow
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_difference_to_the_host_is_bounded(
    decoder: JpegDecoder, place: str, subsampling: str, progressive: bool
) -> None:
    for size in ((37, 53), (64, 64), (200, 16)):
        data = jpeg(size, subsampling=subsampling, progressive=progressive)
        assert difference(decoder, data, whole(data)) <= BOUND[place]


@pytest.mark.parametrize("geometry", [preprocess_for(224, 3), Geometry(size=(40, 60), interpolation="bicubic")])
def test_shipped_photographs(decoder: JpegDecoder, place: str, photographs: Photographs, geometry: Geometry) -> None:
    for name, data in photographs:
        assert difference(decoder, data, geometry) <= BOUND[place], name


def test_files_of_several_shapes_together(decoder: JpegDecoder, photographs: Photographs) -> None:
    geometry = preprocess_for(64, 3)
    files = [data for _, data in photographs]
    for data, cut in zip(files, decoder.decode(files, geometry), strict=True):
        (alone,) = decoder.decode([data], geometry)
        assert cut is not None and alone is not None
        np.testing.assert_array_equal(cut.pixels, alone.pixels)


def test_pixels_per_batch_are_bounded(decoder: JpegDecoder, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_jpeg, "_MAX_PIXELS_TOGETHER", 2 * 37 * 53)
    files = [jpeg(), b"", jpeg(), jpeg(), jpeg((100, 100)), jpeg()]
    cuts = decoder.decode(files, Geometry(size=(16, 16)))
    assert [cut is None for cut in cuts] == [False, True, False, False, False, False]
    if place == "fake":
        assert decoder._codec.batches == [2, 1, 1, 1]


def with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def without_jfif() -> bytes:
    """A file as cameras write it: its components are luminance and chrominance without a marker that says so."""
    data = jpeg()
    length = 2 + int.from_bytes(data[4:6], "big")
    return data[:2] + data[2 + length :]


@pytest.mark.parametrize("make", [lambda: with_exif(1), without_jfif])
def test_photographs_with_exif_data(decoder: JpegDecoder, place: str, make: Callable[[], bytes]) -> None:
    assert difference(decoder, make(), whole(make())) <= BOUND[place]


@pytest.mark.parametrize(
    "make",
    [
        lambda: jpeg(mode="L"),
        lambda: jpeg(mode="CMYK"),
        lambda: with_exif(6),
        lambda: jpeg(keep_rgb=True),
        lambda: jpeg()[:-20],
        lambda: jpeg((1001, 1000)),
        lambda: jpeg((40, 15)),
        lambda: b"",
        lambda: b"no image" + b"\xff\xd9",
    ],
    ids=["grey", "CMYK", "turned", "red, green and blue", "cut short", "too large", "tiny", "empty", "no image"],
)
def test_other_files_are_left_to_the_host(decoder: JpegDecoder, make: Callable[[], bytes]) -> None:
    good = jpeg()
    first, second, third = decoder.decode([good, make(), good], whole(good))
    assert second is None
    assert first is not None and third is not None


@pytest.mark.parametrize("place", ["fake", pytest.param("gpu", marks=needs_gpu())], indirect=True)
def test_images_that_pillow_resizes_in_another_order_are_left_to_the_host(decoder: JpegDecoder) -> None:
    assert decoder.decode([jpeg((20, 90))], Geometry(size=(10, 10))) == [None]


@pytest.mark.parametrize("priority", list(Priority))
def test_decoder_returns_the_same_images_with_it(
    decoder: JpegDecoder, place: str, photographs: Photographs, priority: Priority
) -> None:
    long = jpeg((3300, 16))
    files = [*(data for _, data in photographs), with_exif(6), jpeg()[:-20], b"no image", long]
    preprocess = preprocess_for(64, 3)
    expected = decode(files, preprocess, None)
    assert isinstance(expected[-1], ServiceError)
    for got, wanted in zip(decode(files, preprocess, decoder, priority), expected, strict=True):
        assert type(got) is type(wanted)
        if isinstance(got, DecodedFile) and isinstance(wanted, DecodedFile):
            assert (got.width, got.height, got.format) == (wanted.width, wanted.height, wanted.format)
            assert np.abs(got.pixels.astype(int) - wanted.pixels).max() <= BOUND[place]
        else:
            assert str(got) == str(wanted)


class Broken:
    def decode(self, files: object, geometry: object) -> Any:
        raise RuntimeError("the device is gone")

    def close(self) -> None:
        """Do nothing."""


def test_failing_decoder_leaves_files_to_the_host(photographs: Photographs) -> None:
    broken: Any = Broken()
    (decoded,) = decode([photographs[0][1]], preprocess_for(64, 3), broken)
    assert isinstance(decoded, DecodedFile)


def decode(
    files: list[bytes],
    preprocess: Preprocess,
    jpeg: JpegDecoder | None,
    priority: Priority = Priority.interactive,
) -> list[DecodedFile | ServiceError]:
    kept: Any = None if jpeg is None else SimpleNamespace(decode=jpeg.decode, close=lambda: None)
    decoder = Decoder(2, MAX_PIXELS, gpu=None if kept is None else DecodeBatcher(kept))
    try:
        return asyncio.run(decoder.decode(files, preprocess, priority))
    finally:
        decoder.close()


def test_missing_compiler_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise RuntimeError("libnvrtc.so is not there")

    fake_kernels.install(monkeypatch, FakeRuntime())
    monkeypatch.setattr(cuda_driver, "devices", lambda: [Device(NAME, CAPABILITY)])
    monkeypatch.setattr("models.runtime.cuda.device.nvrtc.nvrtcCreateProgram", missing)
    with pytest.raises(ExecutorError, match=r"decode_gpu: .* cannot be decoded on GPU 0: libnvrtc\.so is not there"):
        open_decoder(0, MAX_PIXELS)


def test_missing_gpu_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[object]:
        raise NoDevice("no NVIDIA driver")

    monkeypatch.setattr("models.runtime.cuda_driver.devices", none)
    with pytest.raises(ExecutorError, match="decode_gpu needs an NVIDIA GPU: no NVIDIA driver"):
        open_decoder(0, MAX_PIXELS)
    assert open_decoder(None, MAX_PIXELS) is None
    monkeypatch.setattr("models.runtime.cuda_driver.devices", lambda: [object()])
    with pytest.raises(ExecutorError, match="there is no GPU 1, only 0"):
        open_decoder(1, MAX_PIXELS)
