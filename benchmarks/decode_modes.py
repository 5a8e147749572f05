"""The time that `--decode fast` saves, and the difference of its pixels from those of `exact`.

    python -m benchmarks.decode_modes

The network takes 224 x 224 pixels, cut from a shorter side of 256. One thread, interleaved rounds, medians. The file is
an enlarged photograph: libjpeg's work depends on its size and quality only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.timing import interleave
from models.imaging.preprocess import Preprocess
from service.core.choices import DecodeMode
from service.decoding.decoder import decode

PHOTOGRAPH = Path(__file__).parents[1] / "export" / "photographs" / "cat.jpg"
SIZES = ((500, 375), (1024, 768), (2000, 1500), (4000, 3000))
ROUNDS = 5
MODES: tuple[DecodeMode, ...] = ("exact", "fast")
NETWORK = Preprocess(size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def main() -> None:
    table = Table("image", "format", "exact", "fast", "ratio", "mean difference of 255", "largest")
    with Image.open(PHOTOGRAPH) as photograph:
        for size in SIZES:
            enlarged = photograph.resize(size, Image.Resampling.BICUBIC)
            for kind in ("JPEG", "PNG"):
                buffer = io.BytesIO()
                enlarged.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
                data = buffer.getvalue()
                runs: dict[str, Callable[[], object]] = {mode: partial(decode, data, NETWORK, mode) for mode in MODES}
                seconds = interleave(runs, f"{size[0]} x {size[1]}, {kind}", ROUNDS)
                exact, fast = (1000 * np.median(seconds[mode]) for mode in MODES)
                pixels = [decode(data, NETWORK, mode).pixels.astype(int) for mode in MODES]
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
