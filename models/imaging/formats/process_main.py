"""The process that decodes one image: `process_main.py FORMAT PACKAGE BYTES SECONDS`, see `process`.

Reads the file from standard input, and writes a line of JSON and the pixels to standard output. Exits with 1, and the
reason on standard error, if the file is damaged, and with 2 if it takes more memory. Imports nothing of this project.
"""

from __future__ import annotations

import importlib
import json
import re
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

_PART_PIXELS = 1 << 20
_STATUS = Path("/proc/self/status")


def main() -> None:
    """Decode the file."""
    name, package, memory, seconds = sys.argv[1:]
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None
    plugin = importlib.import_module(package)
    if name == "HEIF":
        plugin.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    else:
        plugin.JpegXLImagePlugin.DECODE_THREADS = 0
    _limit(int(memory), int(seconds))
    try:
        with Image.open(sys.stdin.buffer, formats=(name,)) as image:
            image.load()
        _write(image)
    except MemoryError:
        sys.exit(2)
    except UnidentifiedImageError:  # its text names this process's input
        sys.exit("the header is damaged")
    except Exception as error:  # of the plug-ins, and of Pillow's readers
        sys.exit(str(error))


def _limit(memory: int, seconds: int) -> None:
    """Let allocations of more bytes fail, and end the process after that much CPU time. No core is dumped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if _STATUS.exists():  # otherwise the system does not say how much memory the process has
        found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        limit = memory + (int(found[1]) * 1024 if found else 0)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _write(image: Any) -> None:
    # Decoders turn the image upright, and EXIF is then not to be applied again (ISO 23008-12, ISO 18181-2). But if a
    # JPEG file was packed into JPEG XL, the plug-in gives the pixels of that file, with its EXIF.
    exif = image.info.get("exif", b"") if getattr(image, "jpeg", False) else b""
    head = {"mode": image.mode, "size": image.size, "exif": exif.hex()}
    output = sys.stdout.buffer
    output.write(json.dumps(head).encode() + b"\n")
    rows = max(1, _PART_PIXELS // image.width)
    for top in range(0, image.height, rows):
        output.write(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    output.flush()


if __name__ == "__main__":
    main()
