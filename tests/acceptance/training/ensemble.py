"""An ensemble of two networks on Fashion-MNIST, and ten crops.

`ENSEMBLE_MEMBERS=A:B` names two checkpoints. By default these are the shipped one and a ResNet-20 that is trained for
eight epochs with another seed, which takes a quarter of an hour on two CPUs where nothing else runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from export.ensemble import build_ensemble
from models.artifact import golden, manifest
from models.artifact.manifest import Precision
from models.artifact.parity import bounded_error
from models.artifact.parity import check as check_parity
from models.training import checkpoint
from models.training.evaluate import predict
from service import executors
from service.executors.base import ExecutorError, compute
from tests.support.tiny import source_of

DATA = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
SHIPPED = Path(__file__).parents[3] / "models" / "pretrained" / "fashion-mnist-resnet20.safetensors"
EXECUTORS: tuple[tuple[str, Precision], ...] = (
    ("onnxruntime-cpu", "float32"),
    ("openvino", "float32"),
    ("onnxruntime-cpu", "int8"),
    ("openvino", "int8"),
)


def check() -> tuple[bool, str]:
    """The gain over the better member, what ten crops do, and the served answer against the average of the two."""
    with TemporaryDirectory() as folder:
        members = _members(Path(folder))
        both = _evaluate(*members)
        crops = _evaluate(*members, "--crops", "10")
        version = build_ensemble(members, Path(folder) / "repository", "both", DATA, int8=True)
        wrong = _compare(version, members)
    alone = [part["top1"] for part in both["checkpoints"]]
    gain = both["top1"] - max(alone)
    cropped = ", ".join(f"{part['top1']:.2%}" for part in crops["checkpoints"])
    figure = (
        f"members {alone[0]:.2%} and {alone[1]:.2%}, ensemble {both['top1']:.2%} (gain {100 * gain:+.2f} points); "
        f"ten crops: {cropped}, ensemble "
        f"{crops['top1']:.2%}; executors that do not give the average: {'; '.join(wrong) or 'none'}"
    )
    return gain > 0 and not wrong, figure


def _members(folder: Path) -> list[Path]:
    if given := os.environ.get("ENSEMBLE_MEMBERS"):
        return [Path(part) for part in given.split(":")]
    options = ["--arch", "resnet20", "--data", str(DATA), "--epochs", "8", "--seed", "1", "--compute", "float32"]
    subprocess.run([sys.executable, "-m", "models", "train", *options, "--out", str(folder / "second")], check=True)
    return [SHIPPED, folder / "second" / "model.safetensors"]


def _evaluate(*arguments: Path | str) -> dict[str, Any]:
    command = [sys.executable, "-m", "models", "evaluate", *map(str, arguments), "--data", str(DATA), "--json"]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return document


def _compare(version: Path, paths: list[Path]) -> list[str]:
    """The executors whose answers are not the average of the eager members at their temperatures."""
    described, wrong = manifest.read(version), []
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    parts = []
    for path, member in zip(paths, described.members, strict=True):
        trained = checkpoint.load(path)
        scores = predict(trained.model(), images, trained.preprocess)
        parts.append((scores / member.temperature).softmax(1).numpy())
    expected = np.mean(parts, 0)
    for name, precision in EXECUTORS:
        runtime = executors.find(name)
        try:
            executor = runtime.load(source_of(version, runtime, precision))[0]
        except ExecutorError as error:
            wrong.append(f"{name} {precision}: {error}")
            continue
        found = compute(executor, images, frozenset({"logits", "probabilities"}))
        executor.close()
        largest = float(np.abs(found["probabilities"] - expected).max())
        error_of_logits = bounded_error(check_parity(found["logits"], logits, precision), precision)
        print(f"  {name} {precision}: largest difference {largest:.1e}, logits {error_of_logits:.1e}", flush=True)
        if precision == "float32" and largest > 1e-5:
            wrong.append(f"{name}: differs by {largest:.1e}")
    return wrong
