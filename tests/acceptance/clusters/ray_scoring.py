"""Line 3: scoring on a Ray cluster gives the rows of this machine, while engines are killed, at nearly the same rate.

    python -m tests.acceptance.clusters.ray_scoring

measures the rate alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from models.artifact.manifest import FILE_NAME
from tests.acceptance.clusters.ray_nodes import RayNodes
from tests.acceptance.clusters.scored import Classify, check_rows, done, make_images, read_images
from tests.acceptance.fast_decoding import find_photographs

IMAGES = 20_000
FILES_PER_SHARD = 1000
KILLS = (0.2, 0.55)
"""Parts of the files that are done when an engine is killed."""
PHOTOGRAPHS = 4000
SIDE = 256
PHOTOGRAPHS_PER_SHARD = 200
ROUNDS = 2
RATE = 0.75


def check() -> tuple[bool, str]:
    """Compare the rows, then the rates."""
    same, rows_figure = check_same_rows()
    print(rows_figure, flush=True)
    fast, rate_figure = check_rate()
    return same and fast, f"{rows_figure}; {rate_figure}"


def check_same_rows(count: int = IMAGES) -> tuple[bool, str]:
    """Score the images here and on the cluster, and kill the process of an engine twice meanwhile."""
    with TemporaryDirectory(prefix="ray-scoring-") as name, RayNodes() as nodes:
        images, here, there = Path(name) / "images", Path(name) / "here", Path(name) / "there"
        make_images(images, count)
        options = (str(images), "--files-per-shard", str(FILES_PER_SHARD), "--output-folder")
        _finish(Classify(*options, str(here)))
        process = Classify(*options, str(there), "--on", "ray", **nodes.environment)
        killed = [_kill_an_engine(process, nodes, there, int(part * count)) for part in KILLS]
        _finish(process)
        expected = {f"{images}/{path}": content for path, content in read_images(images).items()}
        problem = check_rows(lambda file: (there / file).read_bytes(), expected)
        names = sorted(path.name for path in here.iterdir())
        same = names == sorted(path.name for path in there.iterdir()) and all(
            (here / each).read_bytes() == (there / each).read_bytes() for each in names
        )
    figure = (
        f"{count:,} images on 3 nodes, an engine killed with {' and '.join(f'{files:,}' for files in killed)} done: "
        f"{problem or 'every row once'}, {'all' if same else 'NOT all'} {len(names)} files equal those without Ray"
    )
    return not problem and same and len(killed) == len(KILLS), figure


def _kill_an_engine(process: Classify, nodes: RayNodes, results: Path, target: int) -> int:
    """Wait until so many files are done, and kill the process of an engine. Returns the files that are done."""
    if not process.watch(lambda: _done(results) >= target and bool(nodes.engines())):
        raise RuntimeError(f"the work ended before {target:,} files: {process.end()[1][-1000:]}")
    os.kill(random.choice(nodes.engines()), signal.SIGKILL)
    return _done(results)


def _done(results: Path) -> int:
    try:
        return done((results / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return 0


def _finish(process: Classify, expected: int = 1) -> None:
    status, log = process.end()
    if status != expected:  # 1: there are bad files
        raise RuntimeError(f"exit status {status}: {log[-1000:]}")


class Run(NamedTuple):
    """A run on photographs."""

    rate: float
    """Images per second between 20 % and 80 % of the rows."""
    start_seconds: float
    """Time from the start of the process until the first row, about: the first shard at this rate is subtracted."""


def check_rate(count: int = PHOTOGRAPHS, rounds: int = ROUNDS) -> tuple[bool, str]:
    """Score photographs with a ResNet-18 here and on the cluster, one after the other."""
    with TemporaryDirectory(prefix="ray-rate-") as name, RayNodes() as nodes:
        folder = Path(name)
        _export_resnet18(folder)
        make_photographs(folder / "images", count)
        runs: dict[str, list[Run]] = {"here": [], "ray": []}
        for number in range(rounds):
            for place, more in (("here", {}), ("ray", nodes.environment)):
                run = _measure(folder, f"{place}-{number}", count, ["--on", "ray"] if more else [], more)
                print(f"{place}: {run.rate:.1f} images/s, {run.start_seconds:.1f} s to start", flush=True)
                runs[place].append(run)
    here, there = (statistics.mean(run.rate for run in runs[place]) for place in ("here", "ray"))
    start = statistics.mean(run.start_seconds for run in runs["ray"])
    figure = (
        f"ResNet-18, {count:,} photographs of {SIDE} x {SIDE}, 2 CPUs: {there:.1f} images/s on Ray, {here:.1f} "
        f"without, {there / here:.2f}; start {start:.1f} s"
    )
    return there >= RATE * here, figure


def _measure(folder: Path, name: str, count: int, more: list[str], environment: dict[str, str]) -> Run:
    results, started = folder / name, time.time()
    options = ["--repository", str(folder / "repository"), "--files-per-shard", str(PHOTOGRAPHS_PER_SHARD)]
    _finish(Classify(str(folder / "images"), *options, "--output-folder", str(results), *more, **environment), 0)
    shards: list[dict[str, Any]] = json.loads((results / FILE_NAME).read_bytes())["shards"]
    if sum(shard["files"] for shard in shards) != count:
        raise RuntimeError(f"{name}: not all photographs have a row")
    written = [(results / shard["predictions"]["name"]).stat().st_mtime for shard in shards]
    first, last = len(shards) // 5, len(shards) * 4 // 5
    rate = sum(shard["files"] for shard in shards[first + 1 : last + 1]) / (written[last] - written[first])
    return Run(rate, written[0] - started - shards[0]["files"] / rate)


def _export_resnet18(folder: Path) -> None:
    """Export a ResNet-18 for photographs of 224 x 224 pixels, with random weights, in a process of its own."""
    code = (
        "from tests.support.networks import make_checkpoint; import sys; "
        "from pathlib import Path; make_checkpoint('resnet18', size=224, classes=1000).save(Path(sys.argv[1]))"
    )
    checkpoint = folder / "resnet18.safetensors"
    subprocess.run([sys.executable, "-c", code, str(checkpoint)], check=True)
    command = [sys.executable, "-m", "export", "build", str(checkpoint), "--repository", str(folder / "repository")]
    subprocess.run([*command, "--name", "resnet18"], check=True, stdout=subprocess.DEVNULL)


def make_photographs(folder: Path, count: int) -> None:
    """Cut JPEG files out of photographs, each at another place and of another size."""
    random = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in find_photographs()]
    folder.mkdir(parents=True)
    for number in range(count):
        original = originals[number % len(originals)]
        side = int(random.integers(min(original.size) // 2, min(original.size) + 1))
        left, top = (int(random.integers(0, length - side + 1)) for length in original.size)
        part = original.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        part.save(folder / f"{number:06}.jpg", quality=90)


if __name__ == "__main__":
    holds, figure = check_rate()
    print("PASS" if holds else "FAIL", figure)
