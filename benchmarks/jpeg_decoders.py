"""The fastest decoder from a JPEG to what the pipeline needs: a Pillow image, ready to be resized.

    pip install simplejpeg
    python benchmarks/jpeg_decoders.py

One thread, interleaved rounds, medians. It also checks that both decoders give the same pixels.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image
from rich.console import Console
from rich.table import Table

PHOTOGRAPH = Path(__file__).parents[1] / "export" / "photographs" / "cat.jpg"
ROUNDS = 9


def pillow(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def simplejpeg_array(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return simplejpeg.decode_jpeg(data, "RGB")  # type: ignore[no-any-return]


def simplejpeg_image(data: bytes) -> Image.Image:
    """Pillow still reads the header, for the orientation and the limits, and resizes."""
    Image.open(io.BytesIO(data))
    return Image.fromarray(simplejpeg_array(data))


def milliseconds(decode: Callable[[bytes], object], data: bytes, repeat: int) -> float:
    started = time.perf_counter()
    for _ in range(repeat):
        decode(data)
    return (time.perf_counter() - started) / repeat * 1000


def main() -> None:
    table = Table("image", "Pillow", "simplejpeg to Pillow", "simplejpeg to numpy", "same pixels")
    decoders = (pillow, simplejpeg_image, simplejpeg_array)
    with Image.open(PHOTOGRAPH) as photograph:
        for size in ((320, 240), (640, 480), (2000, 1500)):
            for name, subsampling in (("4:4:4", 0), ("4:2:0", 2)):
                buffer = io.BytesIO()
                resized = photograph.resize(size, Image.Resampling.BICUBIC)
                resized.save(buffer, "JPEG", quality=90, subsampling=subsampling)
                data = buffer.getvalue()
                repeat = max(2, 10_000_000 // (size[0] * size[1]))
                rounds = [[milliseconds(decode, data, repeat) for decode in decoders] for _ in range(ROUNDS)]
                medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
                same = np.array_equal(np.asarray(pillow(data)), simplejpeg_array(data))
                table.add_row(f"{size[0]} x {size[1]}, {name}", *(f"{value:.2f} ms" for value in medians), str(same))
    Console().print(table)


if __name__ == "__main__":
    main()
