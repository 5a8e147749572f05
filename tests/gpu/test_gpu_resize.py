"""Resizing on a GPU: the kernels, compiled for the CPU, compute exactly the pixels of Pillow."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from cuda.bindings import driver as real_driver
from cuda.bindings import nvrtc as real_nvrtc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.imaging.preprocess import Geometry, UInt8Array
from models.runtime.cuda import CudaError
from models.runtime.cuda import device as cuda
from models.runtime.engine_plan import ComputeCapability
from service.executors.gpu import gpu_resize
from service.executors.gpu.gpu_resize import DeviceImage, Resizer
from tests.support import fake_kernels
from tests.support.fake_cuda import FakeRuntime
from tests.support.fake_kernels import FakeDriver, FakeNvrtc

SIDES = st.integers(1, 300)


@pytest.fixture(scope="module")
def device() -> Iterator[cuda.CudaDevice]:
    with pytest.MonkeyPatch.context() as patch:
        runtime = FakeRuntime()
        driver = fake_kernels.install(patch, runtime)
        device = cuda.CudaDevice(0)
        yield device
        device.close()
        assert runtime.allocations == driver.loaded == 0


@pytest.fixture(scope="module")
def resizer(device: cuda.CudaDevice) -> Resizer:
    return Resizer(device, gpu_resize.load(device))


def noise(width: int, height: int) -> UInt8Array:
    return np.random.default_rng(width + 1000 * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_device(device: cuda.CudaDevice, image: UInt8Array, padding: int = 0) -> DeviceImage:
    """Its rows may end in bytes that do not belong to it."""
    rows = np.full((len(image), image.shape[1] * 3 + padding), 0x5A, np.uint8)
    rows[:, : image.shape[1] * 3] = image.reshape(len(image), -1)
    address, stream = device.allocate(rows.nbytes), device.make_stream()
    pinned = device.allocate_pinned(rows.nbytes)
    pinned[:] = rows.reshape(-1)
    device.copy_in(address, pinned, stream)
    device.synchronise(stream)
    return DeviceImage(address, image.shape[1], image.shape[0], rows.shape[1])


@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    crop=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    margin=st.none() | st.integers(0, 32),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    padding=st.integers(0, 9),
)
def test_pixels_equal_those_of_pillow(
    device: cuda.CudaDevice,
    resizer: Resizer,
    sizes: list[tuple[int, int]],
    crop: tuple[int, int],
    margin: int | None,
    interpolation: Literal["bilinear", "bicubic", "lanczos"],
    padding: int,
) -> None:
    """Of images larger and smaller than what they are resized to, several at a time, with rows that are padded."""
    geometry = Geometry(
        size=crop, resize=None if margin is None else max(crop) + margin, interpolation=interpolation, mode="RGB"
    )
    images = [noise(width, height) for width, height in sizes if gpu_resize.takes(width, height, geometry)]
    if images:
        resized = resizer.apply([on_device(device, image, padding) for image in images], geometry)
        for image, pixels in zip(images, resized, strict=True):
            np.testing.assert_array_equal(pixels, geometry.apply(Image.fromarray(image)))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (640, 640), (4000, 3000), (100, 75)])
def test_photographs_of_usual_shapes_are_resized_here(size: tuple[int, int]) -> None:
    for kind in ("bilinear", "bicubic", "lanczos"):
        assert gpu_resize.takes(*size, Geometry(size=(224, 224), resize=256, interpolation=kind))


def test_other_images_are_left_to_the_host() -> None:
    assert not gpu_resize.takes(500, 375, Geometry(size=(224, 224), resize=256, interpolation="nearest"))
    assert not gpu_resize.takes(300, 900, Geometry(size=(224, 224), resize=256))


def test_kernels_are_compiled_without_contraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or weights differ in the last of their 22 bits, now and then."""
    fake_kernels.install(monkeypatch, FakeRuntime())
    device = cuda.CudaDevice(0)
    gpu_resize.load(device)
    nvrtc: FakeNvrtc = vars(cuda)["nvrtc"]
    assert b"--fmad=false" in nvrtc.options
    device.close()


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (12, 0)])
def test_real_compiler_accepts_the_kernels(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "nvrtc", real_nvrtc)
    source = Path(gpu_resize.__file__).with_name("resize.cu").read_text()
    try:
        code = cuda._compile("gpu_resize.cu", source, ComputeCapability(*capability), ["--fmad=false"])
    except RuntimeError as error:  # what the bindings raise without the library
        pytest.skip(f"needs the package nvidia-cuda-nvrtc: {error}")
    assert code.startswith(b"\x7fELF")


def test_compile_error_has_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kernels.install(monkeypatch, FakeRuntime())
    device = cuda.CudaDevice(0)
    with pytest.raises(CudaError, match=r"nothing\.cu cannot be compiled: .*error"):
        device.compile("nothing.cu", "int f( {", ())
    with pytest.raises(CudaError, match="cuLibraryGetKernel: CUDA_ERROR_NOT_FOUND"):
        device.compile("other.cu", 'extern "C" __global__ void one(const int *values) {}', ("two",))
    device.close()


@pytest.mark.parametrize(("fake", "real"), [(FakeDriver, real_driver), (FakeNvrtc, real_nvrtc)])
def test_fakes_have_the_signatures_of_the_real_ones(fake: Any, real: Any) -> None:
    names = [name for name in vars(fake) if name.startswith(("cu", "nvrtc"))]
    assert len(names) > 3
    for name in names:
        mine = [parameter for parameter in inspect.signature(getattr(fake, name)).parameters if parameter != "self"]
        assert mine == list(inspect.signature(getattr(real, name)).parameters), name
