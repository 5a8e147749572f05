"""The shipped checkpoint, its export and the examples agree with each other and with the README."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.artifact import manifest
from models.training import checkpoint
from models.training.evaluate import predict
from service.app import Service
from service.core.settings import Settings, shipped_repository

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT / "models" / "pretrained"
ANSWERS = {
    "ankle-boot.png": ("Ankle boot", "98.59%"),
    "pullover.png": ("Pullover", "98.69%"),
    "trouser.png": ("Trouser", "98.62%"),
}


def documented() -> dict[str, tuple[str, str]]:
    """The table in the README."""
    rows = re.findall(
        r"│ \S*?([\w-]+\.png)\s*│ (\S[^│]*?)\s*│\s*([\d.]+%) │", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    return {name: (label, probability) for name, label, probability in rows}


def test_readme_shows_the_results_of_the_examples() -> None:
    assert documented() == ANSWERS


@pytest.mark.parametrize("name", ANSWERS)
def test_pytorch_gives_the_documented_result(name: str) -> None:
    trained = checkpoint.load(PRETRAINED / "fashion-mnist-resnet20.safetensors")
    pixels = np.array(Image.open(PRETRAINED / "examples" / name))[None, ..., None]
    temperature = manifest.read(shipped_repository() / "fashion-mnist-resnet20" / "1").temperature
    best = (predict(trained.model(), pixels, trained.preprocess) / temperature).softmax(1).max(1)
    label, probability = ANSWERS[name]
    assert trained.labels[int(best.indices)] == label
    assert f"{float(best.values):.2%}" == probability


@pytest.mark.parametrize("name", ANSWERS)
def test_service_gives_the_documented_result(name: str) -> None:
    async def classify() -> tuple[str, str]:
        service = Service(Settings())
        await service.start()
        try:
            content = (PRETRAINED / "examples" / name).read_bytes()
            with service.pipeline.lease() as model:
                answer = await service.pipeline.classify(model, [content], 1, timeout_seconds=60)
        finally:
            await service.close()
        predictions = answer.results[0].predictions
        assert predictions is not None
        return predictions[0].label, f"{predictions[0].probability:.2%}"

    assert asyncio.run(classify()) == ANSWERS[name]


def test_manifest_describes_the_checkpoint() -> None:
    version = shipped_repository() / "fashion-mnist-resnet20" / "1"
    described = manifest.read(version)
    path = PRETRAINED / "fashion-mnist-resnet20.safetensors"
    trained = checkpoint.load(path)
    assert described.provenance["checkpoint_sha256"] == manifest.sha256(path)
    assert (described.labels, described.preprocess) == (trained.labels, trained.preprocess)
    accuracy = described.artifacts[0].accuracy
    assert accuracy is not None
    assert accuracy.top1 == pytest.approx(trained.training["test"]["top1"], abs=5e-4)
    golden = np.load(version / manifest.GOLDEN_FILE)
    torch.testing.assert_close(
        predict(trained.model(), golden["images"], trained.preprocess),
        torch.from_numpy(golden["logits"]),
        rtol=1e-4,
        atol=1e-4,
    )
