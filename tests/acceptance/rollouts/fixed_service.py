"""`resnet-serve` with the executor `fixed`, which takes a fixed time per batch."""

from __future__ import annotations

from pathlib import Path

from service import executors
from service.__main__ import run

if __name__ == "__main__":
    executors.__path__.append(str(Path(__file__).parent / "executors"))
    run()
