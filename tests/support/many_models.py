"""A repository of many models of one size, whose answers differ: the classes of each are permuted in another way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.artifact import manifest

_CLASSIFIER = ("model.classifier.weight", "model.classifier.bias")


def make_repository(source: Path, repository: Path, count: int) -> dict[str, NDArray[np.int64]]:
    """Copy a version under many names, as version 1 of each; only its float32 file is copied.

    Args:
        source: folder of a version that `export` wrote.
        repository: folder to make.
        count: number of models.

    Returns:
        By name of the model: the class of `source` that each class of the model is.
    """
    graph = onnx.load(source / "model.onnx")
    described = json.loads((source / manifest.FILE_NAME).read_text())
    described["artifacts"] = [each for each in described["artifacts"] if each["file"] == "model.onnx"]
    golden, head = dict(np.load(source / manifest.GOLDEN_FILE)), dict(np.load(source / manifest.CLASSIFIER_FILE))
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer if tensor.name in _CLASSIFIER}
    values = {name: numpy_helper.to_array(tensor).copy() for name, tensor in tensors.items()}
    permutations = {}
    for number in range(count):
        name = f"model-{number:03d}"
        order = np.random.default_rng(number).permutation(described["architecture"]["num_classes"])
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        for tensor_name, tensor in tensors.items():
            tensor.CopyFrom(numpy_helper.from_array(values[tensor_name][order], tensor_name))
        (folder / "model.onnx").write_bytes(graph.SerializeToString())
        np.savez(folder / manifest.GOLDEN_FILE, images=golden["images"], logits=golden["logits"][:, order])
        np.savez(folder / manifest.CLASSIFIER_FILE, **{key: array[order] for key, array in head.items()})
        artifact = described["artifacts"][0]
        artifact["sha256"] = manifest.sha256(folder / "model.onnx")
        described |= {
            "name": name,
            "version": 1,
            "golden_sha256": manifest.sha256(folder / manifest.GOLDEN_FILE),
            "classifier_sha256": manifest.sha256(folder / manifest.CLASSIFIER_FILE),
        }
        (folder / manifest.FILE_NAME).write_text(json.dumps(described))
        permutations[name] = order
    return permutations


def copy_first(repository: Path, destination: Path) -> Path:
    """A repository with the first model only."""
    first = min(repository.iterdir())
    shutil.copytree(first, destination / first.name)
    return destination
