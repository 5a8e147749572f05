"""Coverage-guided fuzzing of `models.images.decode`; takes libFuzzer's options. Needs `pip install atheris`.

Any exception but `ImageError` ends it with a trace.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["models", "PIL"]):
    from models.imaging import images
    from models.imaging.images import Allowance, ImageError

_options = dict(argument[1:].split("=") for argument in sys.argv[1:] if re.match(r"-\w+=", argument))
_interval = int(_options.get("max_total_time", "600")) / 10
_next_report = time.monotonic() + _interval


def _resident_megabytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000


def try_one(data: bytes) -> None:
    """Decode in either mode, by the length of the data."""
    global _next_report
    if time.monotonic() > _next_report:  # libFuzzer ends the process without running Python's exit handlers
        _next_report += _interval
        print(f"memory: {_resident_megabytes()} MB", file=sys.stderr, flush=True)
    try:
        image = images.decode(data, "RGB" if len(data) % 2 else "L", Allowance(1_000_000))
    except ImageError:
        return
    if image.mode not in ("L", "RGB"):
        raise AssertionError(f"decoded to mode {image.mode}")


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
