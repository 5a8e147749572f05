"""Image files by format: the headers, read before Pillow opens a file, and how Pillow opens it."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageFile

from models.imaging import decode_cost, orientation
from models.imaging.allowance import MAX_COPIED_BYTES, Allowance, reader
from models.imaging.errors import NotAnImage, TooManyPixels
from models.imaging.formats import avif, gif, heif, jpeg, jxl, png_chunks, process, tiff, webp

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", *process.INSTALLED)
"""Accepted formats: common ones, whose decoders are fuzzed, or run in a process of their own. Pillow knows further
formats, which are little used."""

_AT_ONCE_BYTES = 4
MAX_PIXELS_AT_ONCE = MAX_COPIED_BYTES // _AT_ONCE_BYTES
"""Largest image of the formats below in pixels."""
_AT_ONCE = ("WEBP", "AVIF")
"""Formats whose codecs in Pillow copy all pixels at once, while all threads stand still: 2.3 ms per megapixel."""
_MAX_STREAMS_RATIO, _STREAM_BYTES = 3, 4
"""Largest ratio of the pixels of all AVIF streams to the largest image, and bytes per pixel of a stream."""
_OTHERS = ("BMP", "PPM")
_FILE_COPIES = 2
_MAX_PADDING = 2
"""Largest ratio of the pixels that are decoded, in whole tiles, to the largest image."""


class Source(NamedTuple):
    """An image file before its pixels are decoded."""

    data: bytes
    """Content of the file; without metadata, where it is not needed."""
    format: str
    """Name of the format; empty for one of `_OTHERS`."""
    size: tuple[int, int] | None = None
    """Width and height, if they must be known before Pillow opens the file."""
    orientation: int | None = None
    """The orientation, if it was found in metadata that Pillow does not get."""
    codec_bytes: int = 0
    """Memory of the codec for this file, beyond what its format takes."""
    codec_pixel_bytes: int = 0
    """The same per pixel."""
    decoded_pixels: int = 0
    """Pixels that are decoded, if they can be more than the image has."""

    def open(self, allowance: Allowance) -> ImageFile.ImageFile:
        """Open the file with Pillow. Raises what Pillow raises."""
        if self.format == "TIFF":
            return tiff.TiffImage(reader(self.data, allowance))
        if self.format == "GIF":
            return gif.GifImage(reader(self.data, allowance))
        if self.format == "AVIF":
            return avif.open_image(reader(self.data, allowance))
        if self.format in process.PACKAGES and self.size is not None:
            memory = decode_cost.codec_bytes(self.format, *self.size) + self.extra_bytes(0)
            return process.open_image(self.data, self.format, self.size, memory, allowance)
        formats = (self.format,) if self.format else _OTHERS
        return Image.open(reader(self.data, allowance), formats=formats)

    def orientation_of(self, image: ImageFile.ImageFile) -> int:
        """The orientation of the open file, 1 to 8."""
        if self.orientation is not None:
            return self.orientation
        exif, xmp = image.info.get("exif"), image.info.get("xmp")
        return orientation.from_metadata(*(each if isinstance(each, bytes) else b"" for each in (exif, xmp)))

    def copied_bytes(self, pixels: int) -> int:
        """Bytes of an image of this many pixels that its codec copies while all threads stand still."""
        return _AT_ONCE_BYTES * pixels if self.format in _AT_ONCE else 0

    def extra_bytes(self, pixels: int) -> int:
        """Memory beyond what the format takes for an image of this many pixels."""
        return self.codec_bytes + self.codec_pixel_bytes * pixels + _FILE_COPIES * len(self.data)

    def check_pixels(self, width: int, height: int, allowance: Allowance) -> None:
        """Check the size of an image, and of its tiles, which may be larger. Raises TooManyPixels."""
        allowance.check_pixels(width, height)
        if self.format in _AT_ONCE and width * height > MAX_PIXELS_AT_ONCE:
            raise TooManyPixels(
                f"the image has {width} x {height} pixels, more than the {MAX_PIXELS_AT_ONCE:,} that are accepted in "
                "WebP and AVIF: scale it down first, or save it as JPEG or PNG"
            )
        if self.decoded_pixels > _MAX_PADDING * allowance.max_pixels:
            raise TooManyPixels(
                f"the tiles of the image have {self.decoded_pixels:,} pixels, more than {_MAX_PADDING} times the "
                f"{allowance.max_pixels:,} that are accepted: save it again with smaller tiles"
            )


def read(data: bytes) -> Source:
    """Read the cost of a file from its headers.

    Raises:
        NotAnImage: the headers are damaged, or ask for too much.
        TooManyPixels: the pixels in an AVIF file are above the limit.
    """
    if data.startswith(jpeg.SIGNATURE):
        file = jpeg.read(data)
        return Source(file.data, "JPEG", orientation=file.orientation, codec_bytes=file.coefficient_bytes)
    if data.startswith(png_chunks.SIGNATURE):
        chunks = png_chunks.read(data)
        return Source(chunks.data, "PNG", orientation=chunks.orientation)
    if webp.matches(data):
        if (size := webp.size(data)) is None:
            raise NotAnImage("the header of the WebP file is damaged: send the whole file")
        return Source(data, "WEBP", size)
    if data.startswith(tiff.SIGNATURES):
        parts = tiff.read(data)
        return Source(
            data, "TIFF", orientation=parts.orientation, codec_bytes=parts.part_bytes, decoded_pixels=parts.pixels
        )
    if data.startswith(gif.SIGNATURES):
        return Source(data, "GIF")
    if heif.matches(data):
        process.check_installed("HEIF")
        return Source(data, "HEIF", heif.size(data), codec_bytes=process.PROCESS_BYTES)
    if jxl.matches(data):
        process.check_installed("JXL")
        return Source(data, "JXL", jxl.size(data), codec_bytes=process.PROCESS_BYTES)
    if avif.matches(data):
        pixels = avif.stream_pixels(data)
        if pixels > _MAX_STREAMS_RATIO * MAX_PIXELS_AT_ONCE:
            raise TooManyPixels(
                f"the AVIF file holds {pixels:,} pixels, with alpha and previews, more than {_MAX_STREAMS_RATIO} times "
                f"the {MAX_PIXELS_AT_ONCE:,} of the largest image: save it as JPEG or PNG"
            )
        return Source(data, "AVIF", codec_bytes=pixels * _STREAM_BYTES, codec_pixel_bytes=avif.deep_pixel_bytes(data))
    return Source(data, "")
