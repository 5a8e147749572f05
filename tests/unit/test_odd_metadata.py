"""A good image is accepted whatever its metadata is, with the same pixels; what is unreadable means upright."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.imaging.images import ImageError, Mode, UnsupportedMode, decode, to_mode

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)
ORIENTATION = 0x0112
TURNED = np.rot90(PIXELS, -1)
"""Pixels with orientation 6."""
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
BROKEN = b"Exif\0\0II*\0\xff\xff\xff\xff broken"


def encode(file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    COLOUR.save(buffer, file_format, **options)
    return buffer.getvalue()


def directory(*fields: tuple[int, int, int, bytes], order: str = ">") -> bytes:
    """An EXIF block of tag, type, count and value of each field."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    packed = b"".join(struct.pack(f"{order}HHI", *field[:3]) + field[3].ljust(4, b"\0") for field in fields)
    return b"Exif\0\0" + head + struct.pack(f"{order}IH", 8, len(fields)) + packed + bytes(4)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes) -> bytes:
    data = encode()
    place = data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def jpeg(*segments: bytes) -> bytes:
    data = encode("JPEG")
    return data[:2] + b"".join(segments) + data[2:]


SIX = (ORIENTATION, 3, 1, b"\0\6")
WRONG = (0x011A, 2, 3, b"x\0\0")
"""The horizontal resolution as a text."""

TURNED_FILES: dict[str, Callable[[], bytes]] = {
    "PNG, a wrong type beside it": lambda: png(chunk(b"eXIf", directory(WRONG, SIX)[6:])),
    "PNG, a place behind the end": lambda: png(chunk(b"eXIf", directory((0x9286, 7, 9999, b"\xff" * 4), SIX)[6:])),
    "PNG, as a long integer": lambda: png(chunk(b"eXIf", directory((ORIENTATION, 4, 1, b"\0\0\0\6"))[6:])),
    "PNG, little-endian": lambda: png(chunk(b"eXIf", directory((ORIENTATION, 3, 1, b"\6\0"), order="<")[6:])),
    "PNG, as text": lambda: png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 40\n" + _digits())),
    "PNG, as compressed text": lambda: png(
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 40\n" + _digits()))
    ),
    "PNG, in XMP": lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "PNG, in compressed XMP": lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
    "WebP, a wrong type beside it": lambda: encode("WEBP", lossless=True, exif=directory(WRONG, SIX)),
    "TIFF, a wrong type beside it": lambda: encode("TIFF", tiffinfo={ORIENTATION: 6, 0x010F: "maker"}),
}


def _digits() -> bytes:
    return directory(SIX).hex().encode()


@pytest.mark.parametrize("name", TURNED_FILES)
def test_a_readable_orientation_is_applied(name: str) -> None:
    np.testing.assert_array_equal(np.asarray(decode(TURNED_FILES[name](), "RGB")), TURNED)


UPRIGHT_FILES: dict[str, Callable[[], bytes]] = {
    "PNG, unreadable EXIF": lambda: png(chunk(b"eXIf", b"nonsense")),
    "PNG, EXIF that ends early": lambda: png(chunk(b"eXIf", BROKEN)),
    "PNG, an orientation as text": lambda: png(chunk(b"eXIf", directory((ORIENTATION, 2, 2, b"6\0"))[6:])),
    "PNG, an orientation of 9": lambda: png(chunk(b"eXIf", directory((ORIENTATION, 3, 1, b"\0\11"))[6:])),
    "PNG, text above 1 MB": lambda: png(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000)))),
    "PNG, XMP above 1 MB": lambda: png(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3_000_000)))
    ),
    "PNG, profile above 1 MB": lambda: png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000)))),
    "PNG, unknown compression of text": lambda: png(chunk(b"zTXt", b"Comment\0\7xyz")),
    "PNG, damaged checksum of text": lambda: png(chunk(b"tEXt", b"Comment\0x")[:-1] + b"?"),
    "PNG, short animation control": lambda: png(chunk(b"acTL", b"\0")),
    "WebP, unreadable EXIF": lambda: encode("WEBP", lossless=True, exif=b"nonsense"),
    "WebP, EXIF that ends early": lambda: encode("WEBP", lossless=True, exif=BROKEN),
    "WebP, profile": lambda: encode("WEBP", lossless=True, icc_profile=bytes(2_000_000)),
    "TIFF, unreadable directories": lambda: encode("TIFF", tiffinfo={0x8769: 7, 0x8825: 4_000_000_000}),
    "TIFF, profile": lambda: encode("TIFF", icc_profile=bytes(2_000_000)),
}


@pytest.mark.parametrize("name", UPRIGHT_FILES)
def test_unreadable_metadata_means_upright(name: str) -> None:
    np.testing.assert_array_equal(np.asarray(decode(UPRIGHT_FILES[name](), "RGB")), PIXELS)


LOSSY_FILES: dict[str, tuple[Callable[[], bytes], bool]] = {
    "JPEG, a wrong type beside it": (lambda: jpeg(segment(0xE1, directory(WRONG, SIX))), True),
    "JPEG, in XMP": (lambda: jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)), True),
    "JPEG, unreadable EXIF": (lambda: jpeg(segment(0xE1, BROKEN)), False),
    "JPEG, damaged index of images": (lambda: jpeg(segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")), False),
    "JPEG, damaged Photoshop block": (lambda: jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\3")), False),
    "JPEG, bytes between segments": (lambda: jpeg(segment(0xFE, b"x"), b"\0\0\0"), False),
    "AVIF, unreadable EXIF": (lambda: encode("AVIF", exif=directory(WRONG)).replace(b"MM\0*", b"XX\0*"), False),
}


@pytest.mark.parametrize("name", LOSSY_FILES)
def test_lossy_formats_with_odd_metadata(name: str) -> None:
    make, turned = LOSSY_FILES[name]
    plain = np.asarray(Image.open(io.BytesIO(encode(name[:4]))).convert("RGB"))
    image = decode(make(), "RGB")
    assert image.format == name[:4]
    np.testing.assert_array_equal(np.asarray(image), np.rot90(plain, -1) if turned else plain)


def test_a_mode_that_cannot_be_converted_is_named() -> None:
    with pytest.raises(UnsupportedMode, match=r"mode La.*save it in RGB or grey"):
        to_mode(Image.new("La", (8, 6)), "RGB")
    assert issubclass(UnsupportedMode, ImageError)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lab_as_scanners_write_it(mode: Mode) -> None:
    """A grey of medium lightness, 50 of 100, is 119 in sRGB; the formula is that of CIE 1976."""
    buffer = io.BytesIO()
    Image.new("LAB", (8, 6), (128, 128, 128)).save(buffer, "TIFF")
    values = np.asarray(decode(buffer.getvalue(), mode))
    assert np.abs(values.astype(int) - 119).max() <= 2
