"""Fine-tuning on photographs against training from scratch, by the commands, from folders of PNG files.

A class is a photograph of scikit-image or scikit-learn. One half of the photographs (A) is there to pretrain on, the
other half (B) to fine-tune on. Training patches come from the left 60 % of a photograph and test patches from its right
30 %, so that they share no pixel.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.training import checkpoint

PACKAGES = ("scikit-image", "scikit-learn")
PHOTOGRAPHS = (
    "astronaut brick camera cell chelsea clock_motion coffee coins grass gravel hubble_deep_field ihc moon "
    "motorcycle_left page retina rocket text china flower"
)
"""Names of the files that hold a photograph; the others are drawings, masks and the second half of a pair."""
PATCH = 48
"""Side of a patch in pixels; the shorter side of a photograph is scaled to 240 pixels."""
SHORTER_SIDE = 240
PRETRAINING_PATCHES, TRAINING_PATCHES, TEST_PATCHES = 200, 20, 40
SEEDS = (0, 1, 2)
ARCH, SIZE = "resnet20", 32
PRETRAINING = ("--epochs", 40, "--crop", 0, "--random-crop", 0.35, "--colour-jitter", 0.4)


def check() -> tuple[bool, str]:
    """Fine-tuning on photographs against training from scratch."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        photographs = read_photographs(folder / "wheels")
        first, second = list(photographs)[::2], list(photographs)[1::2]
        print(f"{len(photographs)} photographs; A: {', '.join(first)}; B: {', '.join(second)}")
        write_patches({name: photographs[name] for name in first}, folder / "a", PRETRAINING_PATCHES)
        write_patches({name: photographs[name] for name in second}, folder / "b", TRAINING_PATCHES)
        begin = folder / "pretrained"
        a = accuracy(folder / "a", begin, "--arch", ARCH, "--seed", 0, *PRETRAINING)
        print(f"pretrained on A: {a:.2%} of the test patches of A")
        scratch, tuned = [], []
        for seed in SEEDS:
            out = folder / f"{seed}"
            scratch.append(accuracy(folder / "b", out / "scratch", "--arch", ARCH, "--epochs", 30, "--seed", seed))
            initial = begin / "model.safetensors"
            tuned.append(accuracy(folder / "b", out / "tuned", "--init", initial, "--epochs", 3, "--seed", seed))
            print(f"seed {seed}: {tuned[-1]:.2%} after 3 epochs from --init, {scratch[-1]:.2%} after 30 from scratch")
    means = statistics.mean(tuned), statistics.mean(scratch)
    return means[0] >= means[1], f"{means[0]:.2%} after 3 epochs from --init, {means[1]:.2%} after 30 from scratch"


def read_photographs(wheels: Path) -> dict[str, Image.Image]:
    """The photographs in the wheels of the packages, in colour, by name."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "-d", str(wheels), *PACKAGES], check=True)
    found = {}
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                stem = Path(name).stem
                if stem in PHOTOGRAPHS.split() and Path(name).suffix in {".png", ".jpg"}:
                    found[stem] = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
    return {name: found[name] for name in sorted(found)}


def write_patches(photographs: dict[str, Image.Image], folder: Path, training: int) -> None:
    """Write random patches of each photograph as PNG: train/NAME from the left 60 %, test/NAME from the right 30 %."""
    for name, original in photographs.items():
        scale = SHORTER_SIDE / min(original.size)
        width, height = (round(side * scale) for side in original.size)
        parts = {
            "train": (original.crop((0, 0, int(0.6 * original.width), original.height)), int(0.6 * width), training),
            "test": (original.crop((int(0.7 * original.width), 0, *original.size)), int(0.3 * width), TEST_PATCHES),
        }
        for split, (part, wide, count) in parts.items():
            image = part.resize((wide, height), Image.Resampling.BILINEAR)
            rng = np.random.default_rng(len(split))
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                left, top = (int(rng.integers(0, side - PATCH + 1)) for side in image.size)
                image.crop((left, top, left + PATCH, top + PATCH)).save(folder / split / name / f"{index:03}.png")


def accuracy(data: Path, out: Path, *options: Any) -> float:
    """Train by the command, and return the top-1 accuracy on the test patches."""
    command = [sys.executable, "-m", "models", "train", "--data", data, "--out", out, "--size", SIZE, *options]
    # The operations of a network of 32 x 32 pixels are too short for several threads on CPUs that are shared.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL, env=environment)
    return float(checkpoint.load(out / "model.safetensors").training["test"]["top1"])
