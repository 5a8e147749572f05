"""Decodes HEIC and JPEG XL in a process of its own, whose memory and time are bounded.

Their decoders do not say what a file takes: a header may claim 64 x 64 pixels, and a frame in the file have a thousand
times as many. The process gets the memory that an image of the size in the header takes, and ends at the deadline. A
decoder that fails takes nothing else with it. The start takes about 0.1 s.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from PIL import ImageFile

from models.imaging.allowance import Allowance
from models.imaging.errors import DeadlinePassed, NotAnImage

PACKAGES = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
"""Pillow's name of each format, and the module of its plug-in."""
INSTALLED = tuple(name for name, package in PACKAGES.items() if importlib.util.find_spec(package))
SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}
PROCESS_BYTES = 64 * 1024 * 1024
"""Memory of the process beside that of the image."""

_SCRIPT = Path(__file__).with_name("process_main.py")
_ENVIRONMENT = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
_MAX_SECONDS = 3600
"""CPU time of the process without a deadline."""
_MAX_HEAD = 1 << 20
_MAX_MESSAGE = 200


class DecodedPixels(ImageFile.ImageFile):
    """An image as `process_main` writes it: a line of JSON, and the pixels."""

    def _open(self) -> None:
        assert self.fp is not None
        head = json.loads(self.fp.readline(_MAX_HEAD))
        self._mode, self._size = head["mode"], tuple(head["size"])
        self.info["exif"] = bytes.fromhex(head["exif"])
        self.tile = [ImageFile._Tile("raw", (0, 0, *self._size), self.fp.tell(), (self._mode, 0, 1))]
        self._exclusive_fp = True  # closed with the image


def check_installed(name: str) -> None:
    """Check that a format can be decoded.

    Raises:
        NotAnImage: its plug-in is not installed.
    """
    if name not in INSTALLED:
        kind = {"HEIF": "HEIC", "JXL": "JPEG XL"}[name]
        raise NotAnImage(f"{kind} files need the extra formats: install it beside the service, or send JPEG or PNG")


def open_image(data: bytes, name: str, size: tuple[int, int], memory: int, allowance: Allowance) -> DecodedPixels:
    """Decode a file.

    Args:
        data: content of the file.
        name: Pillow's name of the format.
        size: width and height in the header of the file; the image has no more pixels.
        memory: bytes that the process may take for the image.
        allowance: has the deadline.

    Raises:
        NotAnImage: the file is damaged, or takes more memory.
        DeadlinePassed: the deadline passed.
    """
    output = _temporary_file()
    try:
        _decode(data, name, memory, allowance.seconds_left, output)
        output.seek(0)
        image = DecodedPixels(output)
        if image.width * image.height > math.prod(size):
            raise NotAnImage("the image is larger than the header of its file says: save it again")
    except BaseException:
        output.close()
        raise
    image.format = name
    return image


def _decode(data: bytes, name: str, memory: int, seconds: float | None, output: IO[bytes]) -> None:
    with _temporary_file() as file:
        file.write(data)
        file.seek(0)
        command = [sys.executable, "-P", str(_SCRIPT), name, PACKAGES[name], str(memory), str(_cpu_seconds(seconds))]
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
        try:
            done = subprocess.run(
                command, stdin=file, stdout=output, stderr=subprocess.PIPE, timeout=seconds, env=environment
            )
        except subprocess.TimeoutExpired:
            raise DeadlinePassed("the time limit passed while an image was decoded") from None
    if done.returncode == 1:
        reason = " ".join(done.stderr.decode(errors="replace").split()).partition(". ")[0][:_MAX_MESSAGE]
        raise NotAnImage(f"the image is damaged or incomplete ({reason}): send the whole file")
    if done.returncode:
        raise NotAnImage("decoding takes more memory or time than an image of this size needs: save it again")


def _cpu_seconds(seconds: float | None) -> int:
    return _MAX_SECONDS if seconds is None else math.ceil(seconds) + 1


def _temporary_file() -> IO[bytes]:
    """A file in memory, if the system has such files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("image"), "w+b")
    return tempfile.TemporaryFile()
