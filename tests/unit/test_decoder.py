"""Decoding in threads: the pixels of Pillow in the order of the files; a bad file fails alone."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.imaging.preprocess import Preprocess, UInt8Array
from service.core.choices import DecodeMode
from service.core.errors import Overloaded, PayloadTooLarge, ServiceError, UnprocessableImage
from service.decoding.decoder import DecodedFile, Decoder
from tests.support.geometry import preprocess_for
from tests.support.tiny import cut

COLOUR = preprocess_for(32, 3)
GREY = preprocess_for(32, 1)
MAX_PIXELS = 400 * 400
MODES: tuple[DecodeMode, ...] = ("fast", "exact")


def decode(
    files: Sequence[bytes],
    preprocess: Preprocess = COLOUR,
    threads: int = 2,
    max_pixels: int = MAX_PIXELS,
    mode: DecodeMode = "exact",
) -> list[DecodedFile | ServiceError]:
    decoder = Decoder(threads, max_pixels, mode)
    try:
        return asyncio.run(decoder.decode(files, preprocess))
    finally:
        decoder.close()


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_exact_pixels_equal_pillow(photographs: list[tuple[str, bytes]]) -> None:
    for (name, data), decoded in zip(photographs, decode([data for _, data in photographs]), strict=True):
        assert isinstance(decoded, DecodedFile), name
        np.testing.assert_array_equal(decoded.pixels, cut(data), err_msg=name)
        assert decoded.pixels.dtype == np.uint8
        assert (decoded.width, decoded.height, decoded.format) == (*Image.open(io.BytesIO(data)).size, "JPEG")


def distance(fast: UInt8Array, exact: UInt8Array) -> float:
    """Mean difference, in levels of 0 to 255."""
    return float(np.abs(fast.astype(int) - exact).mean())


def test_fast_pixels_are_near_pillow(photographs: list[tuple[str, bytes]]) -> None:
    """Photographs decoded at a half or a quarter of their size; a JPEG that is saved again differs by as much."""
    for (name, data), decoded in zip(photographs, decode([data for _, data in photographs], mode="fast"), strict=True):
        assert isinstance(decoded, DecodedFile), name
        assert 0 < distance(decoded.pixels, cut(data)) < 0.7, name
        assert (decoded.width, decoded.height, decoded.format) == (*Image.open(io.BytesIO(data)).size, "JPEG")


def test_fast_is_exact_to_one_level_for_small_images(photographs: list[tuple[str, bytes]]) -> None:
    for name, data in photographs:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((61, 47))
        (decoded,) = decode([encode(image)], mode="fast")
        assert isinstance(decoded, DecodedFile)
        assert np.abs(decoded.pixels.astype(int) - cut(encode(image))).max() <= 1, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_turns_photographs_upright(orientation: int, photographs: list[tuple[str, bytes]]) -> None:
    """The reduced image is rotated; the pixels are near the exact ones, and the size is that of the whole file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.open(io.BytesIO(photographs[1][1])).resize((399, 265)), "JPEG", exif=exif)
    (fast,), (exact,) = decode([data], mode="fast"), decode([data])
    assert isinstance(fast, DecodedFile)
    assert isinstance(exact, DecodedFile)
    assert (fast.width, fast.height) == (exact.width, exact.height)
    assert distance(fast.pixels, exact.pixels) < 1.0


@pytest.mark.slow
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from(["JPEG", "PNG"]), st.sampled_from([36, None]))
def test_fast_decodes_every_size(width: int, height: int, kind: str, resize: int | None) -> None:
    """A grey gradient from corner to corner is the same at any scale."""
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width)).astype(np.uint8)
    data = encode(Image.fromarray(slope).convert("RGB"), kind)
    preprocess = COLOUR.model_copy(update={"resize": resize})
    fast, exact = (decode([data], preprocess, 1, 700 * 700, mode)[0] for mode in MODES)
    if isinstance(exact, DecodedFile):
        assert isinstance(fast, DecodedFile)
        assert (fast.width, fast.height, fast.format) == (width, height, kind)
        assert np.abs(fast.pixels.astype(int) - exact.pixels).max() <= 8
    else:
        assert str(fast) == str(exact)


def test_fast_keeps_the_pixel_limit() -> None:
    """It applies to the file, not to the reduced image."""
    (answer,) = decode([encode(noise(300, 300), "JPEG")], max_pixels=300 * 300 - 1, mode="fast")
    assert isinstance(answer, PayloadTooLarge)


def test_grey_models_get_luma() -> None:
    image = noise(36, 36)
    (decoded,) = decode([encode(image)], GREY)
    assert isinstance(decoded, DecodedFile)
    red, green, blue = np.moveaxis(np.asarray(image, dtype=np.float64)[2:34, 2:34], 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert decoded.pixels.shape == (32, 32, 1)
    assert np.abs(decoded.pixels[..., 0] - luma).max() <= 1


def test_a_turned_photograph_is_described_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated clockwise by a quarter
    (decoded,) = decode([encode(noise(60, 40), "JPEG", exif=exif)])
    assert isinstance(decoded, DecodedFile)
    assert (decoded.width, decoded.height, decoded.format) == (40, 60, "JPEG")


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("files", [1, 2, 7, 24])
def test_the_order_of_the_files_is_kept(files: int, threads: int) -> None:
    values = [(index * 7) % 256 for index in range(files)]
    answers = decode([encode(Image.new("RGB", (40, 50), (value,) * 3)) for value in values], threads=threads)
    assert [answer.pixels.mean() for answer in answers if isinstance(answer, DecodedFile)] == values


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header of a huge image, with nearly no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def test_each_bad_file_fails_alone() -> None:
    good = encode(noise(40, 40))
    files = [good, b"", good, b"hello", bomb(20_000, 20_000), good[: len(good) // 2], good]
    kinds = [type(answer) for answer in decode(files)]
    bad = UnprocessableImage
    assert kinds == [DecodedFile, bad, DecodedFile, bad, PayloadTooLarge, bad, DecodedFile]


def test_the_limit_of_pixels_is_inclusive() -> None:
    files = [encode(Image.new("L", size)) for size in ((20, 10), (21, 10))]
    fits, too_large = decode(files, max_pixels=200)
    assert isinstance(fits, DecodedFile)
    assert isinstance(too_large, PayloadTooLarge)
    assert "21 x 10" in str(too_large)
    assert "200" in str(too_large)


@pytest.mark.parametrize("size", [(1, 150_000), (150_000, 1)])
def test_an_elongated_image_is_refused_before_it_is_scaled_up(size: tuple[int, int]) -> None:
    """Scaled until its shorter side has 36 pixels, this one of 500 bytes would have 200 million."""
    (answer,) = decode([encode(Image.new("L", size))])
    assert isinstance(answer, UnprocessableImage)
    assert "crop" in str(answer)
    (panorama,) = decode([encode(Image.new("L", (4000, 20)))])
    assert isinstance(panorama, DecodedFile)


def test_any_shape_is_resized_without_a_crop() -> None:
    preprocess = COLOUR.model_copy(update={"resize": None})
    (answer,) = decode([encode(Image.new("RGB", (1, 150_000), (7, 8, 9)))], preprocess)
    assert isinstance(answer, DecodedFile)
    np.testing.assert_array_equal(answer.pixels, np.full((32, 32, 3), (7, 8, 9)))


@pytest.mark.parametrize(
    ("raised", "answer"),
    [
        (RuntimeError("codec"), UnprocessableImage),
        (OverflowError("too large"), UnprocessableImage),
        (MemoryError(), Overloaded),
        (OSError("out of memory error when reading image file"), Overloaded),
    ],
)
def test_any_exception_of_a_codec_fails_one_image(
    raised: Exception, answer: type[ServiceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Image.open

    def fail_on_bmp(file: io.BytesIO, *arguments: object, **options: object) -> Image.Image:
        if file.getvalue().startswith(b"BM"):
            raise raised
        return opened(file, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", fail_on_bmp)
    good = encode(noise(40, 40))
    answers = decode([good, encode(noise(40, 40), "BMP"), good], threads=1)
    assert [type(answer) for answer in answers] == [DecodedFile, answer, DecodedFile]


def test_a_damaged_avif() -> None:
    """Pillow's AVIF decoder reports damage as RuntimeError."""
    whole = encode(noise(64, 64), "AVIF")
    damaged = whole.replace(b"pitm", b"xxxx")
    assert damaged != whole
    good, bad = decode([whole, damaged])
    assert isinstance(good, DecodedFile)
    assert isinstance(bad, UnprocessableImage)


SAMPLES = [encode(noise(40, 50), file_format) for file_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@given(st.sampled_from(SAMPLES), st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_damaged_file_gives_an_image_or_an_error(data: bytes, place: float, change: int, truncate: bool) -> None:
    position = int(place * len(data))
    rest = b"" if truncate else bytes([data[position] ^ change]) + data[position + 1 :]
    damaged, whole = decode([data[:position] + rest, data])
    assert isinstance(whole, DecodedFile)
    if isinstance(damaged, DecodedFile):
        assert damaged.pixels.shape == (32, 32, 3)
    else:
        assert isinstance(damaged, UnprocessableImage | PayloadTooLarge)
        assert str(damaged)
