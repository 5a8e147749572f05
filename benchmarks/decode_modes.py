"""What `--decode fast` saves, and how far its pixels are from those of `exact`.

    python benchmarks/decode_modes.py

For a network of 224 x 224 pixels cut from a shorter side of 256. One thread, interleaved rounds, medians. The file is
an enlarged photograph: what libjpeg does with it depends on its size and quality only.
"""

from __future__ import annotations

import io
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from models.preprocess import Preprocess
from service.decode import DecodeMode, decode

PHOTOGRAPH = Path(__file__).parents[1] / "export" / "photographs" / "cat.jpg"
SIZES = ((500, 375), (1024, 768), (2000, 1500), (4000, 3000))
ROUNDS = 9
NETWORK = Preprocess(size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def milliseconds(data: bytes, mode: DecodeMode, repeat: int) -> float:
    started = time.perf_counter()
    for _ in range(repeat):
        decode(data, NETWORK, mode)
    return (time.perf_counter() - started) / repeat * 1000


def main() -> None:
    table = Table("image", "format", "exact", "fast", "ratio", "mean difference of 255", "largest")
    with Image.open(PHOTOGRAPH) as photograph:
        for size in SIZES:
            enlarged = photograph.resize(size, Image.Resampling.BICUBIC)
            for kind in ("JPEG", "PNG"):
                buffer = io.BytesIO()
                enlarged.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
                data = buffer.getvalue()
                repeat = max(2, 5_000_000 // (size[0] * size[1]))
                rounds = [[milliseconds(data, mode, repeat) for mode in ("exact", "fast")] for _ in range(ROUNDS)]
                exact, fast = (statistics.median(column) for column in zip(*rounds, strict=True))
                pixels = [decode(data, NETWORK, mode).pixels.astype(int) for mode in ("exact", "fast")]
                difference = np.abs(pixels[0] - pixels[1])
                table.add_row(
                    f"{size[0]} x {size[1]}",
                    kind,
                    f"{exact:.2f} ms",
                    f"{fast:.2f} ms",
                    f"{exact / fast:.1f}",
                    f"{difference.mean():.2f}",
                    str(difference.max()),
                )
    Console().print(table)


if __name__ == "__main__":
    main()
