"""Files that would take minutes or gigabytes are refused by what their headers say, before pixels are made."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.imaging import allowance, images, sources
from models.imaging.allowance import Allowance, DecodeMemory
from models.imaging.conversion import Mode
from models.imaging.errors import ImageError, NotAnImage, TooManyPixels, TooMuchMemory
from models.imaging.formats import avif, boxes, jpeg, png_chunks, tiff

FAR = 1e18
"""A deadline that does not come."""
MEMORY = 64 * 1024 * 1024


def encode(file_format: str, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, file_format, **options)
    return buffer.getvalue()


def segments(count: int, payload: bytes) -> bytes:
    data = encode("JPEG")
    return data[:2] + count * (b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload) + data[2:]


def scans(count: int) -> bytes:
    """A progressive file whose last scan is repeated."""
    data = encode("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def png(extra: bytes) -> bytes:
    data = encode("PNG")
    place = data.index(b"IDAT") - 4
    return data[:place] + extra + data[place:]


def png_header(width: int, height: int, bits: int, colours: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return (
        png_chunks.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def tiff_of(*fields: tuple[int, int, int]) -> bytes:
    """A TIFF file of tag, number of values and value, all of them long integers; without pixels."""
    packed = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + packed + bytes(64)


def webp_header(width: int, height: int) -> bytes:
    """The header of a lossless file; 34 bytes."""
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<I", 14) + b"\x2f" + bits + bytes(9)


def gif_cleared(side: int) -> bytes:
    """A GIF whose frame is to be replaced by the background before the next frame."""
    clear = b"!\xf9\4\x08\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\2\2\x4c\1\0;"
    return b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6) + clear + frame


def bmp_of_runs() -> bytes:
    """A BMP of one pixel with 8 bits, compressed."""
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + b"\1\7"


SIZE = ((256, 1, 64), (257, 1, 64))
REFUSED: dict[str, tuple[Callable[[], bytes], type[ImageError], str]] = {
    "JPEG of many scans": (lambda: scans(2 * jpeg.MAX_SCANS), NotAnImage, "more than 64 scans"),
    "JPEG of many segments": (lambda: segments(jpeg.MAX_SEGMENTS, b"Exif\0\0"), NotAnImage, "4,096 segments"),
    "PNG of many chunks": (lambda: png(png_chunks.MAX_CHUNKS * (bytes(4) + b"abCd" + bytes(4))), NotAnImage, "chunks"),
    "TIFF with a tile of 24,576 x 24,576": (
        lambda: tiff_of(*SIZE, (322, 1, 24_576), (323, 1, 24_576), (324, 1, 8)),
        TooManyPixels,
        "603,979,776",
    ),
    "TIFF of many fields": (lambda: tiff_of(*(tiff.MAX_FIELDS + 1) * SIZE[:1]), NotAnImage, "4,097 fields"),
    "TIFF of many strips": (lambda: tiff_of(*SIZE, (273, 70_000, 8)), NotAnImage, "70,000 values"),
    "TIFF of LZMA": (lambda: tiff_of(*SIZE, (259, 1, 34_925)), NotAnImage, "compression 34925"),
    "TIFF without a size": (lambda: tiff_of((256, 1, 64)), NotAnImage, "field 257 is missing"),
    "TIFF with a JPEG of many scans": (
        lambda: tiff_of(*SIZE, (259, 1, 7)) + b"\xff\xda" * 100,
        NotAnImage,
        "JPEG scans",
    ),
    "WebP of 16 megapixels": (lambda: webp_header(4000, 4000), TooMuchMemory, "MB"),
    "PNG of 16 megapixels": (lambda: png_header(4000, 4000, 8, 2), TooMuchMemory, "MB"),
    "WebP of 36 megapixels": (lambda: webp_header(6000, 6000), TooManyPixels, "16,777,216"),
    "PNG of one row": (lambda: png_header(16_000_000, 1, 16, 6), TooManyPixels, "262,144"),
    "PNG of one column": (lambda: png_header(1, 262_145, 8, 0), TooManyPixels, "262,144"),
    "grey PNG of 16 bits": (lambda: png_header(6000, 6000, 16, 0), TooMuchMemory, "MB"),
    "progressive JPEG": (lambda: encode("JPEG", (3000, 3000), progressive=True), TooMuchMemory, "MB"),
    "AVIF": (lambda: encode("AVIF", (2048, 2048), speed=10), TooMuchMemory, "MB"),
    "BMP": (lambda: encode("BMP", (4100, 4100), "L"), TooMuchMemory, "MB"),
    "AVIF of many boxes": (
        lambda: encode("AVIF")[:32] + boxes.MAX_PARTS * struct.pack(">I4s", 8, b"meta"),
        NotAnImage,
        "1,024 boxes",
    ),
    "GIF that is cleared afterwards": (lambda: gif_cleared(65_535), TooManyPixels, "65535 x 65535"),
    "JPEG without pixels": (lambda: encode("JPEG")[:20], NotAnImage, "ends before its pixels"),
    "PBM as text": (lambda: b"P1 2 1 0 1", NotAnImage, "as text"),
    "PGM as text": (lambda: b"P2 2 1 255 0 1", NotAnImage, "as text"),
    "PPM as text": (lambda: b"P3 2 1 255 0 0 0 1 1 1", NotAnImage, "as text"),
    "PPM with a largest value of 1000": (lambda: b"P6 1 1 1000 " + bytes(6), NotAnImage, "other than 255 or 65535"),
    "BMP of run lengths": (bmp_of_runs, NotAnImage, "as run lengths"),
    "damaged WebP": (lambda: b"RIFF\x1a\0\0\0WEBPVP8 " + bytes(20), NotAnImage, "WebP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_costly_file_is_refused_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kind, message = REFUSED[name]
    data = make()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # would fail
    with pytest.raises(kind, match=message):
        images.decode(data, "RGB", Allowance(memory=DecodeMemory(MEMORY)))


def test_bounds_do_not_touch_usual_files() -> None:
    """The bounds themselves, a file with a preview and further pictures behind it, and many strips."""
    preview = b"\xff\xe1" + struct.pack(">H", 65_000) + (b"\xff\xda" * 40_000)[:64_998]
    data = scans(jpeg.MAX_SCANS // 4)
    behind = b"\xff\xda" * 1000
    for good in (
        data[:2] + preview + data[2:] + behind,
        encode("TIFF", (64, 4000), tiffinfo={278: 1}),
        encode("TIFF", (100, 100), compression="jpeg"),
    ):
        assert images.decode(good, "RGB").size in ((8, 8), (64, 4000), (100, 100))


@pytest.mark.parametrize(
    ("size", "mode", "streams"), [((37, 501), "RGB", 1), ((1, 1), "RGB", 1), ((64, 64), "RGBA", 2)]
)
def test_the_pixels_of_an_avif_are_those_of_its_streams(size: tuple[int, int], mode: str, streams: int) -> None:
    """An image that claims 1 x 1 pixels is decoded in full and then scaled."""
    data = encode("AVIF", size, mode, speed=10)
    claimed = data.replace(b"ispe" + struct.pack(">III", 0, *size), b"ispe" + struct.pack(">III", 0, 1, 1))
    assert avif.stream_pixels(claimed) == streams * size[0] * size[1]


def test_an_avif_with_a_stream_of_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PIXELS_AT_ONCE", 100)
    data = encode("AVIF", (64, 64)).replace(struct.pack(">II", 64, 64), struct.pack(">II", 8, 8))
    with pytest.raises(TooManyPixels, match="4,096 pixels"):
        images.decode(data, "RGB")


@given(st.sampled_from([encode("AVIF"), encode("AVIF", mode="RGBA")]), st.integers(0, 400), st.binary(max_size=8))
def test_damaged_avif_headers_are_read_or_refused(data: bytes, place: int, damage: bytes) -> None:
    with contextlib.suppress(NotAnImage):
        assert avif.stream_pixels(data[:place] + damage + data[place + len(damage) :]) >= 0


def test_metadata_is_left_out_of_the_file_that_pillow_gets() -> None:
    assert sources.read(segments(9, b"Exif\0\0" + bytes(999))).data == encode("JPEG")
    assert sources.read(png(bytes(4) + b"tEXt" + bytes(4))).data == encode("PNG")
    plain = encode("JPEG")
    assert sources.read(plain).data is plain


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "I;16", "F", "CMYK", "1"])
@pytest.mark.parametrize("size", [(700, 600), (300_000, 2)])
def test_large_images_are_converted_as_small_ones(mode: str, size: tuple[int, int]) -> None:
    """They are converted part by part."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode in ("I;16", "F"):
        whole = Image.fromarray(values[..., 0].astype(np.uint16) * 250 if mode == "I;16" else values[..., 0] / 255.0)
    else:
        whole = Image.fromarray(values).convert(mode) if mode != "CMYK" else Image.fromarray(values, None).convert(mode)
    pixels = np.asarray(images.to_mode(whole, "RGB"))
    for left in (0, size[0] - 100):
        part = images.to_mode(whole.crop((left, 0, left + 100, size[1])), "RGB")
        np.testing.assert_array_equal(pixels[:, left : left + 100], np.asarray(part))


@pytest.mark.parametrize(("magic", "bands"), [(b"P5", 1), (b"P6", 3)])
def test_netpbm_of_16_bits_gives_the_pixels_of_png(magic: bytes, bands: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (7, 5, bands), dtype=np.uint8)
    mode: Mode = "L" if bands == 1 else "RGB"
    large = np.repeat(values, 2, axis=2).tobytes()  # each value times 257, in two bytes
    decoded = images.decode(magic + b" 5 7 65535\n" + large, mode)
    np.testing.assert_array_equal(np.asarray(decoded), values.squeeze())


def test_a_file_of_many_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "MAX_READS", 1000)
    comments = gif_cleared(8).replace(b"!\xf9", b"!\xfe" + b"\1a" * 1000 + b"\0!\xf9")
    assert images.decode(encode("GIF"), "RGB", Allowance(deadline=FAR)).size == (8, 8)
    with pytest.raises(NotAnImage, match="1,000 reads"):
        images.decode(comments, "RGB", Allowance(deadline=FAR))


def test_markers_are_found_at_the_borders_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = segments(9, b"Exif\0\0" + bytes(99))
    for part in (2, 3, 16):
        monkeypatch.setattr(jpeg, "_PART_BYTES", part)
        assert jpeg.read(data).data == encode("JPEG")
