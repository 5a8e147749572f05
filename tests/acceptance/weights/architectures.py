"""Every ResNet of timm and torchvision is imported or refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from export.errors import ForeignWeights
from export.importing import import_weights
from models.artifact import parity
from tests.acceptance.weights.timm_process import TimmProcess

_MAX_ERROR = 1e-4
"""Largest difference of the logits, relative to their spread over the images."""


def check() -> tuple[bool, str]:
    """Every ResNet of timm and torchvision is imported or refused."""
    counts: Counter[str] = Counter()
    wrong, worst = [], 0.0
    with TimmProcess() as libraries:
        for library, names in libraries.ask("list").items():
            for name in names:
                with TemporaryDirectory() as folder:
                    libraries.ask("write", library=library, name=name, folder=folder)
                    outcome, words, error = _import(name, Path(folder))
                print(f"  {library:11} {name:24} {outcome:8} {words}", flush=True)
                counts[outcome] += 1
                worst = max(worst, error)
                if outcome == "wrong":
                    wrong.append(f"{library} {name}")
    return not wrong, (
        f"{counts.total()} architectures: {counts['imported']} imported, logits within {worst:.1e} of their spread; "
        f"{counts['refused']} refused by name; wrong: {', '.join(wrong) or 'none'}"
    )


def _import(name: str, folder: Path) -> tuple[str, str, float]:
    """Whether the weights are imported, refused or wrong, with the details, and the error of the logits."""
    (weights,) = [*folder.glob("*.safetensors"), *folder.glob("*.pth")]
    try:
        imported = import_weights(weights)
    except ForeignWeights as refusal:
        words = str(refusal).removeprefix(f"{folder}/")
        return "refused" if name in words and "--onnx" in words and "\n" not in words else "wrong", words, 0.0
    reference = np.load(folder / "reference.npz")
    with torch.inference_mode():
        logits = imported.checkpoint.model()(torch.from_numpy(reference["images"])).numpy()
    error = parity.compare(logits, reference["logits"]).logit_error
    spread = reference["logits"].std(0).mean()
    words = f"as {imported.checkpoint.architecture.name}, error {error:.1e} of the spread {spread:.2f}"
    return "imported" if error <= _MAX_ERROR and spread > 0.05 else "wrong", words, error
