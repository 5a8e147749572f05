"""Throughput of training with files that are decoded, against images that are in memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.training import AIMS

_ROOT = Path(__file__).parents[3]
_PHOTOGRAPHS = _ROOT / "export" / "photographs"
_SIZE = (500, 375)
_LIMIT = 0.9
_NEARLY = 0.6
"""Share of an aim on a GPU that is enough."""


def check(images: int = 96, rounds: int = 3) -> tuple[bool, str]:
    """A ResNet-50 on two CPUs trains on JPEG files of 500 x 375 at 0.9 of its speed on images in memory, or faster.

    Each round trains one epoch on files and one with `--cache`, and gives a ratio. With a GPU, the script that measures
    training there runs, too: of its aims 0.6 is enough.
    """
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_images(folder / "data", images)
        for number in range(rounds):
            files = _train(folder / "data", folder / f"files {number}", "--no-cache")
            memory = _train(folder / "data", folder / f"memory {number}", "--cache")
            ratios.append(files["images_per_second"] / memory["images_per_second"])
            print(
                f"round {number + 1}: files {files['images_per_second']:.2f} images/s, of the time "
                f"{files['waiting_for_data']:.1%} waiting; in memory {memory['images_per_second']:.2f} images/s, "
                f"{memory['waiting_for_data']:.1%}; ratio {ratios[-1]:.3f}",
                flush=True,
            )
    ratio = statistics.median(ratios)
    listed = ", ".join(f"{each:.3f}" for each in ratios)
    fast, gpu = _on_a_gpu() if torch.cuda.is_available() else (True, "no GPU: not measured")
    line = f"{ratio:.3f} of the speed in memory (median of {listed}; at least {_LIMIT}); {gpu}"
    return ratio >= _LIMIT and fast, line


def _on_a_gpu() -> tuple[bool, str]:
    out = _ROOT / "build" / "gpu"
    subprocess.run([str(_ROOT / "benchmarks" / "gpu.sh"), "--only", "training", str(out)], check=True)
    rates = json.loads((out / "training.json").read_text(encoding="utf-8"))
    figures = ", ".join(f"{name} {rates.get(name, 0):,.0f} images/s (aim {aim:,})" for name, aim in AIMS.items())
    return all(rates.get(name, 0) >= _NEARLY * aim for name, aim in AIMS.items()), figures


def _write_images(folder: Path, count: int) -> None:
    """Two classes of JPEG files: photographs with noise, and the same upside down; two test images."""
    rng = np.random.default_rng(0)
    paths = sorted(_PHOTOGRAPHS.glob("*.jpg"))
    for split, number in (("train", count), ("test", 2)):
        for index in range(number):
            photograph = Image.open(paths[index % len(paths)]).convert("RGB").resize(_SIZE)
            pixels = np.asarray(photograph, np.int64)[:: 1 if index % 2 else -1]
            noisy = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
            path = folder / split / ("upright", "upside-down")[1 - index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(path, quality=90)


def _train(data: Path, out: Path, cache: str) -> dict[str, float]:
    """The figures of the only epoch, on two CPUs."""
    command = [sys.executable, "-m", "models", "train", "--arch", "resnet50", "--data", str(data), "--out", str(out)]
    options = ["--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--compute", "float32", "--size", "224", cache]
    chosen = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))[:2])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(["taskset", "--cpu-list", chosen, *command, *options], check=True, env=environment)
    figures: dict[str, float] = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return figures
