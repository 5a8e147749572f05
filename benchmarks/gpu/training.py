"""Training by its command on a GPU: images per second of the last epoch, which neither compiles nor decodes.

The images are of two kinds: small grey ones of noise, in memory from the start, and photographs of 224 x 224 pixels,
which `--cache` decodes in the first epoch.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu.report import GpuReport, NotDone

AIMS = {"resnet20": 60_000, "resnet50": 2_500}
"""Images per second that each network should reach on an H100 or H200."""
LIMIT_SECONDS = 240.0
"""Time limit of a command."""
_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network, and options of the command."""

    arch: str
    options: tuple[str, ...]
    images: int
    """Number of training images, which is an epoch."""
    photographs: bool
    """Whether they are photographs."""


def _small(*options: str) -> Case:
    return Case("resnet20", options, 60_000, photographs=False)


def _large(*options: str) -> Case:
    return Case("resnet50", ("--size", "224", "--cache", "--batch-size", "256", *options), 4_096, photographs=True)


CASES = (
    *(
        _small("--batch-size", batch, *options)
        for batch in ("128", "1024")
        for options in ((), ("--compile",), ("--compile", "--data-workers", "2"))
    ),
    _large(),
    _large("--compile"),
)


@dataclass(frozen=True)
class TrainingRate:
    """The last epoch of a training."""

    case: Case
    images_per_second: float
    waiting: float
    """Share of the time spent waiting for images."""


def measure_training(
    photographs: Sequence[Path], out: Path, report: GpuReport, cases: Sequence[Case] = CASES
) -> Iterator[str]:
    """The lines of a table; a training that fails is listed in the report.

    Args:
        photographs: JPEG files to train on.
        out: folder for the images, the runs and `training.json`.
        report: gets what was not measured.
        cases: what to train.
    """
    rates: list[TrainingRate] = []
    yield "| network | options | images/s | waiting for data | of the aim |"
    yield "|---|---|---|---|---|"
    for case in cases:
        try:
            rate = train(case, photographs, out / "training")
        except NotDone as error:
            report.missing.append(f"{case.arch} {' '.join(case.options)}: {error}")
            continue
        rates.append(rate)
        share = f"{rate.images_per_second / AIMS[case.arch]:.2f} of {AIMS[case.arch]:,}" if case.arch in AIMS else ""
        options = " ".join(case.options)
        yield f"| {case.arch} | {options} | {rate.images_per_second:,.0f} | {rate.waiting:.0%} | {share} |"
    best = {rate.case.arch: rate.images_per_second for rate in sorted(rates, key=lambda each: each.images_per_second)}
    (out / "training.json").write_text(json.dumps(best, indent=1) + "\n", encoding="utf-8")


def train(case: Case, photographs: Sequence[Path], folder: Path, epochs: int = 3) -> TrainingRate:
    """Train by the command, with images in a folder, which are written if they are missing.

    Raises:
        NotDone: the command failed or took too long.
    """
    data = folder / f"{'photographs' if case.photographs else 'noise'}-{case.images}"
    if not data.exists():
        unfinished = data.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for split, count in (("train", case.images), ("test", 2 * _CLASSES)):
            if case.photographs:
                _write_photographs(unfinished / split, count, photographs)
            else:
                _write_noise(unfinished, "train" if split == "train" else "t10k", count)
        unfinished.rename(data)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "models", "train", "--arch", case.arch, "--data", str(data), "--out", str(run)]
    command += ["--epochs", str(epochs), *case.options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotDone(f"not finished within {LIMIT_SECONDS:g} s") from None
    if done.returncode:
        output = done.stderr.strip().splitlines()
        raise NotDone(output[-1] if output else f"the command ended with {done.returncode}")
    figures = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return TrainingRate(case, figures["images_per_second"], figures["waiting_for_data"])


def _write_noise(folder: Path, prefix: str, count: int) -> None:
    """IDX files of grey images, 28 x 28 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % _CLASSES).astype(np.uint8)
    for name, values in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
        header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        (folder / f"{prefix}-{name}").write_bytes(header + values.tobytes())


def _write_photographs(folder: Path, count: int, photographs: Sequence[Path]) -> None:
    """A folder per class, with photographs in turn."""
    for index in range(count):
        source = photographs[index % len(photographs)]
        target = folder / f"class-{index % _CLASSES}" / f"{index}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if index < len(photographs):
            shutil.copy(source, target)
        else:
            first = index % len(photographs)
            os.link(folder / f"class-{first % _CLASSES}" / f"{first}{source.suffix}", target)
