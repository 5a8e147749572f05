"""Each layout written and read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from export.importing import ImportOverrides, import_weights
from export.writing import write
from models.artifact import parity
from models.artifact.parity import Float32Array
from models.training.checkpoint import Checkpoint
from tests.acceptance.weights.timm_process import TimmProcess

_MAX_ERROR = 1e-4
"""Largest difference of the logits, relative to their spread over the images."""

_ROWS = {
    "transformers": ("resnet18", "resnet26", "resnet50", "resnet50-v1"),
    "timm": ("resnet10t", "resnet18d", "resnet26", "resnet50s", "resnext50_32x4d"),
    "torchvision": ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"),
}
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]},
    "resnet26": {"depths": [2, 2, 2, 2]},
    "resnet50": {},
    "resnet50-v1": {"downsample_in_bottleneck": True},
}
"""Arguments of `ResNetConfig`, whose default is a ResNet-50."""


def check() -> tuple[bool, str]:
    """Each layout written and read again."""
    wrong, worst = [], 0.0
    with TimmProcess() as libraries:
        for layout, names in _ROWS.items():
            for name in names:
                with TemporaryDirectory() as folder:
                    problems, error = _round_trip(layout, name, Path(folder), libraries)
                worst = max(worst, error)
                wrong += [f"{layout} {name}: {problem}" for problem in problems]
                print(f"  {layout:12} {name:16} error {error:.1e}; {'; '.join(problems) or 'equal'}", flush=True)
    count = sum(map(len, _ROWS.values()))
    return not wrong, (
        f"{count} networks written as they were imported, tensor by tensor; logits of the libraries that load them "
        f"within {worst:.1e} of their spread; wrong: {'; '.join(wrong) or 'none'}"
    )


def _round_trip(layout: str, name: str, folder: Path, libraries: TimmProcess) -> tuple[list[str], float]:
    """The differences, and the error of the logits, of weights that are imported, written and loaded again."""
    given, written = folder / "given", folder / "written"
    given.mkdir()
    if layout == "transformers":
        _write_transformers(name, given)
    else:
        libraries.ask("write", library=layout, name=name, folder=str(given))
    (weights,) = [*given.glob("*.safetensors"), *given.glob("*.pth")]
    checkpoint = import_weights(weights, name if layout == "torchvision" else None, ImportOverrides(layout)).checkpoint
    problems = [] if checkpoint.architecture.name == name else [f"imported as {checkpoint.architecture.name}"]
    files = write(checkpoint, layout, written / "weights.pth" if layout == "torchvision" else written)
    problems += _differences(_load(files[-1]), _load(weights))
    if layout == "transformers":
        logits = _transformers_logits(written, given / "reference.npz")
    else:
        images = str(given / "reference.npz")
        answer = libraries.ask("logits", library=layout, name=name, folder=str(written), images=images)
        logits = np.load(written / "logits.npy")
        problems += _other_preprocessing(answer.get("preprocess"), checkpoint)
    error = parity.compare(logits, np.load(given / "reference.npz")["logits"]).logit_error
    return problems + ([f"logits differ by {error:.1e}"] if error > _MAX_ERROR else []), error


def _load(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    if found.keys() != expected.keys():
        return [f"tensors {sorted(found.keys() ^ expected.keys())[:5]}"]
    return [
        f"{name} differs"
        for name, value in expected.items()
        if found[name].dtype != value.dtype or not torch.equal(found[name], value)
    ]


def _other_preprocessing(read: dict[str, Any] | None, checkpoint: Checkpoint) -> list[str]:
    """The differences of the preprocessing that timm reads; None for a library that reads no preprocessing."""
    own = checkpoint.preprocess
    if read is None:
        return []
    resize = int(read["input_size"][1] / read["crop_pct"])
    found = (tuple(read["input_size"][1:]), resize, read["interpolation"], tuple(read["mean"]), tuple(read["std"]))
    expected = (own.size, own.resize, own.interpolation, own.mean, own.std)
    return [] if found == expected else [f"preprocessing {found}, not {expected}"]


def _write_transformers(name: str, folder: Path) -> None:
    """A random network with its statistics, as the library writes it, and its logits of random images."""
    torch.manual_seed(0)
    images = nn.functional.interpolate(torch.randn(12, 3, 9, 9), (64, 64), mode="bilinear")
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000, **_TRANSFORMERS[name]))
    for key, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a cumulative average
            residual = "shortcut" not in key and "embedder" not in key
            nn.init.uniform_(module.weight, *((0.2, 0.5) if residual else (0.7, 1.3)))
            nn.init.normal_(module.bias, std=0.1)
    nn.init.normal_(model.classifier[1].weight, std=0.05)
    with torch.no_grad():
        model.train()(images[:6])
        logits = model.eval()(images[6:]).logits
    model.save_pretrained(folder)
    np.savez(folder / "reference.npz", images=images[6:].numpy(), logits=logits.numpy())


def _transformers_logits(folder: Path, images: Path) -> Float32Array:
    model, report = ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    if any(report.values()):
        raise RuntimeError(f"transformers reports {report}")
    with torch.inference_mode():
        logits: Float32Array = model.eval()(torch.from_numpy(np.load(images)["images"])).logits.numpy()
    return logits
