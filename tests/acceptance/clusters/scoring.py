"""Line 2: 100,000 images on this machine: killed, its memory, and its rate."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from models.artifact.manifest import FILE_NAME
from service.app import Service
from service.core.priority import Priority
from service.core.settings import shipped_repository
from service.core.settings.offline import OfflineSettings
from service.decoding.decoder import decode
from service.messages.inference import InferenceRequest
from tests.acceptance.clusters.scored import Classify, check_rows, done, make_images, read_images

IMAGES = 100_000
FEW_IMAGES = 10_000
KILLS = 5
FILES_PER_SHARD = 1000
MEMORY_MB = 30.0
RATE = 0.9
SAMPLE = 8000
"""Images that decoding and the engine are measured on, each alone."""
_BATCH = 32
_IN_FLIGHT = 4


def check() -> tuple[bool, str]:
    """Score with kills and compare the rows; then score without, and compare the rate with its two parts alone."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with TemporaryDirectory(prefix="scoring-") as name:
        images, few, results = Path(name) / "images", Path(name) / "few", Path(name) / "results"
        make_images(images, IMAGES, seed)
        make_images(few, FEW_IMAGES, seed)
        kills = score_with_kills(images, results / "killed", random.Random(seed))
        expected = {f"{images}/{path}": content for path, content in read_images(images).items()}
        problem = check_rows(lambda file: (results / "killed" / file).read_bytes(), expected)
        print(f"{kills} kills: {problem or 'every row once'}", flush=True)
        whole = score(images, results / "whole")
        small = score(few, results / "few")
        parts = asyncio.run(measure_parts(sorted(images.rglob("*.png"))[:SAMPLE]))
    grown = whole.peak_mb - small.peak_mb
    best = 1 / (parts.decoding + parts.engine)
    print(
        f"alone, per image on all CPUs: decoding {parts.decoding * 1e6:.0f} µs, engine {parts.engine * 1e6:.0f} µs; "
        f"on one CPU in all {whole.cpu_seconds / IMAGES * 1e6:.0f} µs; {parts.cpus} CPUs"
    )
    figure = (
        f"{kills} kills, {problem or 'every row once'}; memory {small.peak_mb:.0f} MB for {FEW_IMAGES:,} files, "
        f"{whole.peak_mb:.0f} MB for {IMAGES:,}; {whole.rate:,.0f} images/s, {whole.rate / best:.2f} of {best:,.0f}"
    )
    return not problem and kills == KILLS and abs(grown) <= MEMORY_MB and whole.rate >= RATE * best, figure


def score_with_kills(images: Path, results: Path, moments: random.Random) -> int:
    """Score, end the process with SIGKILL at random moments, and let the last run finish. Returns the kills."""
    command = (str(images), "--output-folder", str(results), "--files-per-shard", str(FILES_PER_SHARD))
    kills = 0
    for target in sorted(moments.sample(range(IMAGES * 9 // 10), KILLS)):
        process = Classify(*command)
        pause = moments.uniform(0.0, 2.0)
        end: list[float] = []

        def reached(target: int = target, pause: float = pause, end: list[float] = end) -> bool:
            """Whether a random time passed after the manifest lists the target."""
            if not end and done(_read(results / FILE_NAME)) >= target:
                end.append(time.monotonic() + pause)
            return bool(end) and time.monotonic() > end[0]

        if not process.watch(reached):
            break
        process.kill()
        kills += 1
        print(f"killed with {done(_read(results / FILE_NAME)):,} files in the manifest", flush=True)
    status, log = Classify(*command).end()
    if status != 1:  # there are bad files
        raise RuntimeError(f"exit status {status}: {log[-1000:]}")
    return kills


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class Scored(NamedTuple):
    """A run without kills."""

    rate: float
    """Images per second between 20 % and 80 % of the rows."""
    peak_mb: float
    cpu_seconds: float


def score(images: Path, results: Path) -> Scored:
    """Score a folder at once."""
    process = Classify(str(images), "--output-folder", str(results), "--files-per-shard", str(FILES_PER_SHARD))
    status, log = process.end()
    if status != 1:
        raise RuntimeError(f"exit status {status}: {log[-1000:]}")
    shards = json.loads((results / FILE_NAME).read_bytes())["shards"]
    first, last = len(shards) // 5, len(shards) * 4 // 5
    written = [(results / shards[index]["predictions"]["name"]).stat().st_mtime for index in (first, last)]
    files = sum(shard["files"] for shard in shards[first + 1 : last + 1])
    return Scored(files / (written[1] - written[0]), process.peak_mb, process.cpu_seconds)


class Parts(NamedTuple):
    """Seconds per image of each part alone, if it had all CPUs."""

    decoding: float
    engine: float
    cpus: int


async def measure_parts(paths: list[Path]) -> Parts:
    """Measure decoding (with reading) in one thread, and the engine with all its instances and full batches."""
    cpus = len(os.sched_getaffinity(0))
    service = Service(OfflineSettings(repository=shipped_repository()))
    await service.start()
    try:
        with service.pipeline.lease() as model:
            pixels, started = [], time.perf_counter()
            for path in paths:
                content = path.read_bytes()
                if content != b"no image":
                    pixels.append(decode(content, model.preprocess, "exact").pixels)
            decoding = (time.perf_counter() - started) / len(paths) / cpus
            places = asyncio.Semaphore(_IN_FLIGHT)

            async def compute(first: int) -> None:
                async with places:
                    await service.registry.submit(
                        model.key,
                        InferenceRequest(
                            pixels[first : first + _BATCH],
                            frozenset({"probabilities"}),
                            time.monotonic() + 600.0,
                            Priority.interactive,
                            0.0,
                            False,
                        ),
                    )

            await compute(0)
            started = time.perf_counter()
            await asyncio.gather(*(compute(first) for first in range(0, len(pixels), _BATCH)))
            engine = (time.perf_counter() - started) / len(pixels)
    finally:
        await service.close()
    return Parts(decoding, engine, cpus)
