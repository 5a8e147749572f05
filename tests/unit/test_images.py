"""Image formats give the pixels of an equal plain image; invalid images give an error."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from models.imaging.images import Allowance, ImageError, NotAnImage, TooManyPixels, decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)
GREY = Image.fromarray(PIXELS[..., 0])


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header of a huge image, with nearly no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_lossless_formats(file_format: str) -> None:
    image = decode(encode(COLOUR, file_format, **LOSSLESS[file_format]), "RGB")
    assert (image.mode, image.format) == ("RGB", file_format)
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("file_format", ["JPEG", "AVIF"])
def test_lossy_formats_equal_pillow(file_format: str) -> None:
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = encode(COLOUR.resize((64, 48)), file_format)
    np.testing.assert_array_equal(np.asarray(decode(data, "RGB")), np.asarray(Image.open(io.BytesIO(data))))


def test_colour_to_grey_uses_the_luma_of_itu_601() -> None:
    """L = 0.299 R + 0.587 G + 0.114 B."""
    expected = PIXELS @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(np.asarray(decode(encode(COLOUR), "L")), expected, atol=1)


def test_grey_to_colour_repeats_the_channel() -> None:
    pixels = np.asarray(decode(encode(GREY), "RGB"))
    np.testing.assert_array_equal(pixels, np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("orientation", "restore"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
def test_exif_orientation(orientation: int, restore: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.asarray(decode(encode(COLOUR, exif=exif), "RGB"))
    np.testing.assert_array_equal(pixels, restore(PIXELS))


def test_alpha_is_composed_over_white() -> None:
    alpha = RNG.integers(0, 256, (6, 8, 1), dtype=np.uint8)
    data = encode(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)))
    share = alpha / 255.0
    np.testing.assert_allclose(np.asarray(decode(data, "RGB")), PIXELS * share + 255 * (1 - share), atol=1)


def test_grey_with_alpha() -> None:
    alpha = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
    data = encode(Image.merge("LA", [GREY, Image.fromarray(alpha)]))
    share = alpha / 255.0
    np.testing.assert_allclose(np.asarray(decode(data, "L")), PIXELS[..., 0] * share + 255 * (1 - share), atol=1)


def test_palette() -> None:
    palette = COLOUR.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode(encode(palette), "RGB")), expected)


def test_transparent_palette_entry_becomes_white() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    pixels = np.asarray(decode(encode(palette, transparency=0), "RGB"))
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [0, 0, 255]]])


def test_sixteen_bits_are_scaled() -> None:
    wide = Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16))
    for file_format in ("PNG", "TIFF"):
        pixels = np.asarray(decode(encode(wide, file_format), "L"))
        np.testing.assert_array_equal(pixels, np.arange(256, dtype=np.uint8).reshape(16, 16))


def test_cmyk() -> None:
    cmyk = COLOUR.resize((64, 48)).convert("CMYK")
    data = encode(cmyk, "TIFF")
    np.testing.assert_array_equal(np.asarray(decode(data, "RGB")), np.asarray(cmyk.convert("RGB")))


def test_black_and_white() -> None:
    bilevel = GREY.convert("1")
    np.testing.assert_array_equal(np.asarray(decode(encode(bilevel), "L")), np.asarray(bilevel) * np.uint8(255))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert (np.asarray(decode(data, "RGB")) == (255, 0, 0)).all()


def test_one_pixel() -> None:
    assert decode(encode(Image.new("RGB", (1, 1))), "RGB").size == (1, 1)


@pytest.mark.parametrize("data", [b"", b"hello, this is text", b"\x00" * 1000, b"\xff\xd8\xff", b"%PDF-1.4"])
def test_data_without_an_image(data: bytes) -> None:
    with pytest.raises(NotAnImage):
        decode(data, "RGB")


@pytest.mark.parametrize("twentieth", range(20))
def test_truncated_jpeg(twentieth: int) -> None:
    data = encode(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(NotAnImage):
        decode(data[: len(data) * twentieth // 20], "RGB")


def test_decompression_bomb_is_found_in_its_header() -> None:
    with pytest.raises(TooManyPixels, match="20000 x 20000"):
        decode(bomb(20000, 20000), "RGB")


def test_limit_is_inclusive() -> None:
    assert decode(encode(COLOUR), "RGB", Allowance(48)).size == (8, 6)
    with pytest.raises(TooManyPixels):
        decode(encode(COLOUR), "RGB", Allowance(47))


SEEDS = [
    encode(COLOUR.resize((32, 24)), "JPEG"),
    encode(COLOUR),
    encode(COLOUR, "GIF"),
    encode(COLOUR, "TIFF"),
    encode(COLOUR, "WEBP"),
    encode(COLOUR, "BMP"),
]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 10_000),
    mode=st.sampled_from(["L", "RGB"]),
)
def test_damage_gives_an_image_or_an_image_error(
    seed: bytes, changes: list[tuple[int, int]], cut: int, mode: Any
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        image = decode(bytes(data[: len(data) - cut % len(data)]), mode, Allowance(1_000_000))
    except ImageError as error:
        assert str(error)
    else:
        assert image.mode == mode
