"""The reader of plain PNG files gives the pixels of Pillow, or leaves the file to Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from models.imaging import images
from models.imaging.formats import png
from models.imaging.images import ImageError

MAX_PIXELS = 10_000


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", width: int = 9, height: int = 7, levels: int = 256) -> Image.Image:
    """With few levels, PNG uses other filters than with many."""
    shape = (height, width) if mode == "L" else (height, width, 3)
    values = np.random.default_rng(width * height * levels).integers(0, levels, shape, dtype=np.uint8)
    return Image.fromarray(values)


def chunk(name: bytes, data: bytes, checksum: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ checksum)


def with_chunk(data: bytes, extra: bytes, before: bytes = b"IDAT") -> bytes:
    place = data.index(before) - 4
    return data[:place] + extra + data[place:]


def pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@given(
    mode=st.sampled_from(["RGB", "L"]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 16, 256]),
    level=st.integers(0, 9),
)
def test_pixels_equal_pillow(mode: str, width: int, height: int, levels: int, level: int) -> None:
    data = encode(noise(mode, width, height, levels), compress_level=level)
    image = png.decode(data, MAX_PIXELS)
    assert image is not None
    assert (image.mode, image.size, image.format) == (mode, (width, height), "PNG")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pillow(data)))


PLAIN: dict[str, Callable[[], bytes]] = {
    "resolution": lambda: encode(noise(), dpi=(72, 72)),
    "gamma": lambda: with_chunk(encode(noise()), chunk(b"gAMA", struct.pack(">I", 45455))),
    "several pieces": lambda: _in_pieces(encode(noise())),
    "something behind the end": lambda: encode(noise()) + b"rubbish",
}


def _in_pieces(data: bytes) -> bytes:
    place = data.index(b"IDAT") - 4
    size = struct.unpack_from(">I", data, place)[0]
    pixels = data[place + 8 : place + 8 + size]
    pieces = b"".join(chunk(b"IDAT", pixels[first : first + 11]) for first in range(0, size, 11))
    return data[:place] + pieces + data[place + 12 + size :]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_variants(name: str) -> None:
    data = PLAIN[name]()
    image = png.decode(data, MAX_PIXELS)
    assert image is not None
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pillow(data)))


def _text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "hello")
    return info


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(noise(), exif=exif)


def _interlaced() -> bytes:
    """Raises, which is enough."""
    data = bytearray(encode(noise()))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


LEFT: dict[str, Callable[[], bytes]] = {
    "a palette": lambda: encode(noise().convert("P")),
    "transparency": lambda: encode(noise().convert("RGBA")),
    "a transparent colour": lambda: encode(noise(), transparency=(1, 2, 3)),
    "16 bits": lambda: encode(Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4))),
    "one bit": lambda: encode(noise("L").convert("1")),
    "interlacing": _interlaced,
    "text": lambda: encode(noise(), pnginfo=_text()),
    "an orientation": _turned,
    "an unknown chunk": lambda: with_chunk(encode(noise()), chunk(b"xxXx", b"?")),
    "a wrong checksum": lambda: with_chunk(encode(noise()), chunk(b"gAMA", bytes(4), checksum=1)),
    "too many pixels": lambda: encode(noise(width=101, height=100)),
    "no pixels": lambda: encode(noise()).replace(struct.pack(">II", 9, 7), bytes(8)),
    "JPEG": lambda: b"\xff\xd8\xff\xe0",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("name", LEFT)
def test_other_files_are_left_to_pillow(name: str) -> None:
    assert png.decode(LEFT[name](), MAX_PIXELS) is None


@given(st.binary(max_size=3), st.integers(0, 400), st.booleans())
def test_damaged_file_is_left_to_pillow(noise_: bytes, place: int, cut: bool) -> None:
    """A damaged file gives the result of Pillow, or its error."""
    whole = encode(noise(width=12, height=11))
    place %= len(whole)
    data = whole[:place] + noise_ + (b"" if cut else whole[place + len(noise_) :])
    image = png.decode(data, MAX_PIXELS)
    if image is not None:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(pillow(data)))


@given(st.integers(0, 254))
def test_decoding_is_the_same_with_and_without_the_reader(place: int) -> None:
    data = encode(noise(width=12, height=11))[: place + 1]

    def outcome() -> object:
        try:
            return np.asarray(images.decode(data, "RGB")).tolist()
        except ImageError as error:
            return str(error)

    with_it = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "decode", lambda data, most: None)
        assert outcome() == with_it
