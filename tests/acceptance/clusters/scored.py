"""Images to score, `resnet-classify` as a process, and its results as another reader sees them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from service.core.settings import shipped_repository

MODEL = shipped_repository() / "fashion-mnist-resnet20" / "1" / "model.onnx"
EXAMPLES = sorted((shipped_repository().parent / "examples").glob("*.png"))
SIZE = 28
BAD_EVERY = 997
"""One file of so many is no image."""
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6

Reader = Callable[[str], bytes]
"""Reads a file of the results by its name."""


def make_images(folder: Path, count: int, seed: int = 0) -> None:
    """Write PNG files of 28 x 28 pixels, each another one: half of them in one folder, the others in 50 folders."""
    random = np.random.default_rng(seed)
    examples = [np.asarray(Image.open(path).convert("L"), np.float32) for path in EXAMPLES]
    for number in range(count):
        place = folder / "flat" if number % 2 else folder / "folders" / f"{number % 100:02}"
        if number < 100:
            place.mkdir(parents=True, exist_ok=True)
        pixels = examples[number % len(examples)] * random.uniform(0.2, 1.0) + random.normal(0.0, 25.0, (SIZE, SIZE))
        path = place / f"{number:06}.png"
        if number % BAD_EVERY:
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        else:
            path.write_bytes(b"no image")


def classes(contents: Sequence[bytes]) -> list[int]:
    """The classes of images, from the model's file with ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(MODEL)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(content)))[..., np.newaxis] for content in contents])
    (logits,) = session.run(["logits"], {"images": pixels})
    return [int(index) for index in np.asarray(logits).argmax(axis=1)]


class Classify:
    """`resnet-classify` in a process. Keeps the largest resident memory of each call of `watch`.

    Args:
        arguments: of the command line.
        environment: variables beside those of this process.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "service.cli.classify", *arguments]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
        )
        self.peak_mb = 0.0
        self.cpu_seconds = 0.0

    def watch(self, until: Callable[[], bool]) -> bool:
        """Wait until something holds; False if the process ended first."""
        while self._process.poll() is None:
            self._measure()
            if until():
                return True
            time.sleep(0.05)
        return False

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def end(self) -> tuple[int, str]:
        """Wait for the end. Returns exit status and standard error."""
        self.watch(lambda: False)
        return self._process.returncode, self._process.communicate()[1]

    def _measure(self) -> None:
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError):  # it has just ended
            return
        self.peak_mb = max(self.peak_mb, pages * _PAGE_MB)
        self.cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def done(manifest: bytes | None) -> int:
    """Number of files that the manifest of results lists; 0 without a manifest."""
    return 0 if manifest is None else int(json.loads(manifest)["files"])


def check_rows(read: Reader, expected: Mapping[str, bytes | None], samples: int = 500) -> str:
    """Compare the results with the files.

    Args:
        read: reads the results.
        expected: content of each file in its order; None for a bad file.
        samples: images whose class is compared.

    Returns:
        The problem, empty if there is none.
    """
    manifest = json.loads(read("manifest.json"))
    predictions: list[dict[str, Any]] = []
    failed: list[str] = []
    for shard in manifest["shards"]:
        predictions += _parquet(read(shard["predictions"]["name"]))
        failed += [row["file"] for row in _parquet(read(shard["errors"]["name"]))] if shard["errors"] else []
    good = [name for name, content in expected.items() if content is not None]
    if not manifest["complete"]:
        return "the manifest is not complete"
    if [row["file"] for row in predictions] != good:
        return f"{len(predictions)} rows, {len({row['file'] for row in predictions})} files, expected {len(good)}"
    if failed != [name for name, content in expected.items() if content is None]:
        return f"{len(failed)} bad files, expected {len(expected) - len(good)}"
    chosen = np.random.default_rng(1).choice(len(good), min(samples, len(good)), replace=False)
    found = classes([expected[good[index]] or b"" for index in chosen])
    wrong = sum(predictions[index]["index"] != value for index, value in zip(chosen, found, strict=True))
    return f"{wrong} of {len(chosen)} classes differ" if wrong > len(chosen) // 200 else ""


def _parquet(content: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    return rows


def read_images(folder: Path) -> dict[str, bytes | None]:
    """Content of each image by its path below the folder, sorted by the parts of the path; None for a bad file."""
    paths = sorted((path.relative_to(folder) for path in folder.rglob("*.png")), key=lambda path: path.parts)
    contents = {path.as_posix(): (folder / path).read_bytes() for path in paths}
    return {name: None if content == b"no image" else content for name, content in contents.items()}
