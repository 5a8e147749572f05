"""Measures the memory that decoding takes: `python -m tests.support.decode_peak` prints JSON.

In a process of its own, whose other memory does not change.
"""

from __future__ import annotations

import gc
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from models import malloc
from models.imaging import images
from models.imaging.allowance import Allowance, DecodeMemory

SIDE = 2048


class _Recorded(DecodeMemory):
    """Notes what is reserved."""

    reserved = 0

    def acquire(self, size: int, copied: int, allowance: Allowance) -> None:
        self.reserved = size


def _colour() -> Image.Image:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] // 16
    return Image.fromarray(np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8))


def _files() -> dict[str, bytes]:
    colour = _colour()
    grey, see_through, turned = colour.convert("L"), colour.copy(), Image.Exif()
    see_through.putalpha(grey)
    turned[0x0112] = 6
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    one_strip = {278: SIDE}
    return {
        "JPEG": _encode(colour, "JPEG"),
        "JPEG, turned": _encode(colour, "JPEG", exif=turned),
        "JPEG, progressive": _encode(colour, "JPEG", progressive=True, subsampling=0),
        "JPEG, progressive, CMYK": _encode(colour.convert("CMYK"), "JPEG", progressive=True, subsampling=0),
        "PNG": _encode(colour, "PNG"),
        "PNG, alpha": _encode(see_through, "PNG"),
        "PNG, 16 bits": _encode(wide, "PNG"),
        "PNG, palette": _encode(colour.convert("P"), "PNG", transparency=3),
        "WebP, alpha": _encode(see_through, "WEBP", method=0),
        "WebP, lossless": _encode(colour, "WEBP", lossless=True, quality=0, method=0),
        "AVIF, alpha": _encode(see_through, "AVIF", speed=10, subsampling="4:4:4"),
        "GIF": _encode(colour.convert("P"), "GIF", transparency=3),
        "BMP": _encode(colour, "BMP"),
        "PPM": _encode(colour, "PPM"),
        "PPM, floating point": _encode(grey.convert("F"), "PPM"),
        "TIFF": _encode(colour, "TIFF", compression="tiff_lzw"),
        "TIFF, one strip": _encode(see_through, "TIFF", compression="tiff_lzw", tiffinfo=one_strip),
        "TIFF, one strip of JPEG": _encode(colour, "TIFF", compression="jpeg", tiffinfo=one_strip),
        "TIFF, luma and chroma": _encode(colour.convert("YCbCr"), "TIFF", compression="tiff_lzw", tiffinfo=one_strip),
    }


def _encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def _peak(data: bytes, mode: images.Mode) -> tuple[int, int]:
    """Bytes that were reserved, and that decoding took."""
    memory = _Recorded(0)
    gc.collect()
    malloc.trim()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    images.decode(data, mode, Allowance(memory=memory))
    return memory.reserved, _status("VmHWM") - before


if __name__ == "__main__":
    files = _files()
    modes: tuple[images.Mode, ...] = ("RGB", "L")
    print(json.dumps({f"{name} to {mode}": _peak(data, mode) for name, data in files.items() for mode in modes}))
