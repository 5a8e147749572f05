"""onnxconverter-common's conversion to half precision, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_VERSION = "1.16.0"
_PROGRAM = """
import sys, onnx
from onnxconverter_common import float16
source, target, keep = sys.argv[1:]
onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=keep == "True"), target)
"""


def to_float16(source: Path, target: Path, keep_io_types: bool) -> None:
    """Convert a file, by the command that users run."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    arguments = [str(source), str(target), str(keep_io_types)]
    subprocess.run([_python(), "-W", "ignore", "-c", _PROGRAM, *arguments], check=True, env=environment)


def _python() -> Path:
    """The interpreter of an environment with the converter, which is made if it does not exist."""
    folder = Path.home() / ".cache" / "resnet-serve" / f"onnxconverter-common-{_VERSION}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"  making an environment with onnxconverter-common {_VERSION} in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"onnxconverter-common=={_VERSION}"], check=True)
        complete.touch()
    return python
