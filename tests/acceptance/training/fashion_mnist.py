"""The shipped networks on Fashion-MNIST: accuracy on the test images, which are for reporting only.

FASHION_MNIST is the folder of the data set. An aim that is missed holds all the same if the trainings took twelve hours
and the page states what is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from models import data
from models.artifact import manifest
from models.artifact.manifest import Precision
from models.training import checkpoint
from models.training.checkpoint import Checkpoint
from service import executors
from service.executors.base import compute
from tests.support.tiny import source_of

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
SHIPPED = ROOT / "models" / "pretrained"
PAGE = ROOT / "docs" / "fashion-mnist.md"
AIMS = {"fashion-mnist-resnet20": 0.958, "fashion-mnist-wrn-16-2": 0.962}
EXPORTED = SHIPPED / "repository" / "fashion-mnist-resnet20" / "1"
MOST_PARAMETERS = 1_000_000
LEAST_HOURS = 12
MOST_INT8_LOSS = 0.002
BATCH = 250
EXECUTORS: tuple[tuple[str, Precision], ...] = (
    ("onnxruntime-cpu", "float32"),
    ("onnxruntime-cpu", "int8"),
    ("openvino", "float32"),
    ("openvino", "int8"),
)


def check() -> tuple[bool, str]:
    """Measure both checkpoints in PyTorch and the exported version on each executor; compare the page with that."""
    page = " ".join(PAGE.read_text(encoding="utf-8").split()) if PAGE.is_file() else ""
    wrong, figures, hours = list[str](), list[str](), 0.0
    for name, aim in AIMS.items():
        path = SHIPPED / f"{name}.safetensors"
        if not path.is_file():
            return False, f"{path.relative_to(ROOT)} is missing"
        trained, accuracy, spent = checkpoint.load(path), _evaluate(path), _hours(path)
        parameters = sum(parameter.numel() for parameter in trained.model().parameters())
        hours += spent
        figures.append(f"{name} ({parameters:,} parameters, {spent:.1f} h) {accuracy:.2%}, aim {aim:.1%}")
        wrong += [f"{name}: {problem}" for problem in _wrong_training(trained, page)]
        if parameters > MOST_PARAMETERS:
            wrong.append(f"{name} has {parameters:,} parameters")
        if f"{accuracy:.2%}".replace("%", " %") not in page:
            wrong.append(f"the page does not have the accuracy of {name}")
        if accuracy < aim:
            missing = f"{100 * (aim - accuracy):.2f} points are missing"
            if missing not in page:
                wrong.append(f"{name}: the page does not say that {missing}")
            figures.append(missing)
    reached = all("missing" not in figure for figure in figures)
    if not reached and hours < LEAST_HOURS:
        wrong.append(f"the trainings took {hours:.1f} hours, fewer than {LEAST_HOURS}")
    losses = _int8_losses()
    wrong += [f"{name}: int8 loses {loss:.2%}" for name, loss in losses.items() if loss > MOST_INT8_LOSS]
    for problem in wrong:
        print(f"  {problem}", flush=True)
    lost = ", ".join(f"{name} {100 * loss:+.2f} points" for name, loss in losses.items())
    return not wrong, f"{'; '.join(figures)}; lost in int8: {lost}; wrong: {len(wrong)}"


def _wrong_training(trained: Checkpoint, page: str) -> list[str]:
    """Test images must not have been used for a choice, and the page must have seed, command and curves."""
    recipe, name = trained.training["recipe"], trained.architecture.name
    wrong = [] if recipe["validation"] > 0 else ["no training images were held out"]
    if f"--arch {name} " not in page:
        wrong.append("the page has no command")
    if f"curves-{name}.png" not in page:
        wrong.append("the page has no curves")
    if f"seed {recipe['seed']}" not in page:
        wrong.append("the page does not name the seed")
    return wrong


def _hours(path: Path) -> float:
    """The time that the epochs of a training took."""
    lines = [json.loads(line) for line in path.with_suffix(".metrics.jsonl").read_text("utf-8").splitlines()]
    images = checkpoint.load(path).training["images"]
    return float(sum(images / line["images_per_second"] for line in lines)) / 3600


def _evaluate(path: Path) -> float:
    command = [sys.executable, "-m", "models", "evaluate", str(path), "--data", str(DATA), "--json"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return float(found["top1"])


def _int8_losses() -> dict[str, float]:
    """The accuracy that each executor loses in int8, on all test images."""
    described = manifest.read(EXPORTED)
    test = data.load(DATA, "test", described.preprocess)
    accuracy: dict[tuple[str, str], float] = {}
    for name, precision in EXECUTORS:
        runtime = executors.find(name)
        executor = runtime.load(source_of(EXPORTED, runtime, precision))[0]
        right = 0
        for first in range(0, len(test.labels), BATCH):
            places = np.arange(first, min(first + BATCH, len(test.labels)))
            logits = compute(executor, test.images(places), frozenset({"logits"}))["logits"]
            right += int((logits.argmax(1) == test.labels[places]).sum())
        executor.close()
        accuracy[name, precision] = right / len(test.labels)
        print(f"  {name} {precision}: {accuracy[name, precision]:.2%}", flush=True)
    return {name: accuracy[name, "float32"] - accuracy[name, "int8"] for name, _ in EXECUTORS[::2]}
