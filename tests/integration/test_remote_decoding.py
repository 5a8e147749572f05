"""Files of a worker that the engine process decodes, on a GPU in place of which the host decodes."""

from __future__ import annotations

import asyncio
import gc
import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.imaging.preprocess import Preprocess
from service.core.priority import Priority
from service.decoding.decoder import DecodedFile, Decoder
from service.messages.decoding import DecodedImage
from service.messages.inference import InferenceRequest
from service.remote.arena import Arena
from service.remote.gpu_decoder import RemoteGpuDecoder
from tests.support.geometry import preprocess_for
from tests.support.host_jpeg import HostJpeg
from tests.support.remote import TIMEOUT, Pair, pair, run


class Gpu:
    """Decodes files with `HostJpeg`, when the test allows it."""

    def __init__(self) -> None:
        self.jpeg = HostJpeg()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.files: list[bytes] = []
        """Those of all calls."""
        self.priorities: set[Priority] = set()

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> Sequence[DecodedImage | None]:
        self.files += files
        self.priorities.add(priority)
        self.begun.set()
        await self.go_on.wait()
        return self.jpeg.decode(files, preprocess)

    def close(self) -> None:
        """Do nothing."""


@asynccontextmanager
async def decoding(repository: Path) -> AsyncIterator[tuple[Pair, Gpu, RemoteGpuDecoder, Preprocess]]:
    gpu = Gpu()
    async with pair(repository, gpu) as both:
        client = await both.client()
        yield both, gpu, RemoteGpuDecoder(client), client.hold().preprocess


def make_request(pixels: list[np.ndarray]) -> InferenceRequest:
    return InferenceRequest(pixels, frozenset({"logits"}), time.monotonic() + TIMEOUT)


def image_file(seed: int, size: tuple[int, int] = (60, 40), mode: str = "RGB", file_format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, file_format)
    return file.getvalue()


def expected(data: bytes, preprocess: Preprocess) -> tuple[np.ndarray, int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return preprocess.apply(image), *image.size


def check(image: DecodedImage | None, data: bytes, preprocess: Preprocess) -> None:
    assert image is not None
    pixels, width, height = expected(data, preprocess)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert (image.width, image.height) == (width, height)


def test_pixels_are_those_of_the_decoder(tiny_repository: Path) -> None:
    files = [image_file(number, size) for number, size in enumerate([(60, 40), (700, 500), (36, 36), (1500, 1200)])]
    grey, png = image_file(8, mode="L"), image_file(9, file_format="PNG")

    async def test() -> None:
        async with decoding(tiny_repository) as (_, gpu, decoder, preprocess):
            for priority in Priority:
                got = await decoder.decode([grey, *files, png], preprocess, priority)
                assert got[0] is None
                assert got[-1] is None
                for image, data in zip(got[1:-1], files, strict=True):
                    check(image, data, preprocess)
            assert gpu.priorities == set(Priority)
            assert gpu.files == [grey, *files] * 2  # not the PNG
            assert await decoder.decode([png], preprocess, Priority.bulk) == [None]

    assert len(files[3]) > 1 << 20
    run(test)


def test_decoded_pixels_are_submitted_where_they_are(tiny_repository: Path) -> None:
    files = [image_file(number) for number in range(3)]

    async def test() -> None:
        async with decoding(tiny_repository) as (both, _, decoder, preprocess):
            client, own = both.clients[0], both.registry.hold()
            for _ in range(2):
                images = await decoder.decode(files, preprocess, Priority.interactive)
                pixels = [image.pixels for image in images if image is not None]
                remote = await client.submit(client.hold().key, make_request(pixels))
                copies = [expected(data, preprocess)[0] for data in files]
                local = await both.registry.submit(own.key, make_request(copies))
                np.testing.assert_allclose(remote.outputs["logits"], local.outputs["logits"], rtol=1e-4, atol=1e-5)
                check(images[0], files[0], preprocess)  # a second request may use the pixels

    run(test)


@pytest.mark.parametrize("when", ["before it is decoded", "while it is decoded"])
def test_slots_of_a_cancelled_request_are_kept_until_the_answer(tiny_repository: Path, when: str) -> None:
    async def test() -> None:
        async with decoding(tiny_repository) as (both, gpu, decoder, preprocess):
            arena = both.clients[0].connection.arena
            slot = arena.take(preprocess.shape)
            arena.free([slot])  # the next request has it
            gpu.go_on.clear()
            task = asyncio.create_task(decoder.decode([image_file(1)], preprocess, Priority.bulk))
            await (asyncio.sleep(0) if when == "before it is decoded" else gpu.begun.wait())
            task.cancel()
            await asyncio.wait([task])
            assert arena.take(preprocess.shape) is not slot
            gpu.go_on.set()
            (image,) = await decoder.decode([image_file(2)], preprocess, Priority.bulk)
            check(image, image_file(2), preprocess)
            assert arena.take(preprocess.shape) is slot  # its answer came before
            assert len(gpu.files) == (1 if when == "before it is decoded" else 2)

    run(test)


@pytest.mark.parametrize("what", ["device", "engine process"])
def test_cpus_decode_if_something_fails(tiny_repository: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with decoding(tiny_repository) as (both, gpu, remote, preprocess):
            decoder = Decoder(1, 1_000_000, gpu=remote)
            gpu.jpeg.error = RuntimeError("the device is gone")
            gpu.go_on.clear()
            task = asyncio.create_task(decoder.decode([image_file(1)], preprocess))
            await gpu.begun.wait()
            if what == "device":
                gpu.go_on.set()
            else:
                both.server.close()
            (decoded,) = await task
            assert isinstance(decoded, DecodedFile)
            np.testing.assert_array_equal(decoded.pixels, expected(image_file(1), preprocess)[0])
            decoder.close()

    run(test)
    assert ("RuntimeError: the device is gone" if what == "device" else "the engine process ended") in caplog.text


def test_engine_process_without_a_gpu_leaves_files_to_the_worker(tiny_repository: Path) -> None:
    async def test() -> None:
        async with pair(tiny_repository) as both:
            client = await both.client()
            decoder, preprocess = RemoteGpuDecoder(client), client.hold().preprocess
            assert await decoder.decode([image_file(1)] * 2, preprocess, Priority.bulk) == [None, None]

    run(test)


def test_shared_pixels_are_not_copied_and_freed_with_their_array() -> None:
    arena, shape = Arena(), preprocess_for(32, 3).shape
    slot = arena.take(shape)
    pixels = arena.share(slot)
    assert arena.put(pixels) is slot
    arena.free([slot])
    other = arena.take(shape)
    assert other is not slot
    del pixels
    gc.collect()
    assert arena.take(shape) is slot
    assert arena.put(np.zeros(shape, np.uint8)) not in (slot, other)
    arena.close()
