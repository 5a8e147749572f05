"""`resnet-export import` from a name to a version that is served."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from export.__main__ import app
from models.artifact import golden, manifest
from tests.support.foreign_networks import resnet18


@pytest.mark.slow
def test_one_command_ends_in_a_served_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder as a hub has it; the logits of its golden images are those of the original network."""
    folder = tmp_path / "resnet18.own"
    folder.mkdir()
    network = resnet18(3)
    config = {
        "architecture": "resnet18",
        "label_names": ["n1", "n2", "n3"],
        "label_descriptions": {"n1": "cat", "n2": "rocket", "n3": "coffee"},
        "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.8, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (folder / "model.safetensors").write_bytes(save(network.state_dict()))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: started.append(arguments))
    arguments = ["import", str(folder), "--repository", f"{tmp_path}/repository", "--serve", "--port", "9000"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "licence        mit (README.md)" in done.output
    assert started[0][-6:] == ["-m", "service", "--repository", f"{tmp_path}/repository", "--port", "9000"]

    version = tmp_path / "repository" / "resnet18.own" / "1"
    described = manifest.read(version)
    assert (described.architecture.name, described.labels) == ("resnet18", ("cat", "rocket", "coffee"))
    assert (described.preprocess.size, described.preprocess.resize) == ((64, 64), 80)
    assert described.provenance["training"]["imported"]["licence"] == "mit (README.md)"
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    normalised = torch.from_numpy(((images / 255 - 0.5) / 0.25).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = network(normalised).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4 * expected.std())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --repository to build a version of a model, or --output"),
        (["-o", "checkpoint", "--serve"], "--serve needs --repository"),
        (["-o", "checkpoint", "--port", "1"], "--port is for --serve"),
        (["--onnx", "-o", "checkpoint"], "--onnx"),
        (["--repository", "r", "--name", "../m"], "is no model name"),
    ],
)
def test_unclear_commands_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    done = CliRunner().invoke(app, ["import", f"{tmp_path}/weights.pth", *arguments])
    assert done.exit_code == 2
    assert message in done.output
