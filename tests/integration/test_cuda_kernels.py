"""The kernels of the CUDA engine in Triton's interpreter, against the ONNX file in ONNX Runtime.

The interpreter runs the launch plan that a GPU runs: the same kernels, grids, pointers and buffers, with large blocks.
It is slow, so the suite has the smallest networks only; `python -m tests.acceptance.cuda_engine 1` runs all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from models.artifact import parity
from models.artifact.manifest import Precision
from tests.support import tiny
from tests.support.interpreter.process import (
    AVAILABLE,
    WHY_NOT,
    by_onnxruntime,
    compare_candidates,
    integer_convolutions,
    interpret,
)
from tests.support.kernel_networks import write_network
from tests.support.thorough import takes_minutes

pytestmark = [pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT), pytest.mark.slow]

NETWORKS: dict[str, dict[str, Any]] = {
    "tiny, odd size, one channel": {"arch": "tiny", "size": 17, "channels": 1, "classes": 5},
    "basic blocks, zero padding": {"arch": "resnet20", "size": 20},
    "basic blocks, 7x7 stem, all layers": {"arch": "resnet18", "size": 45, "classes": 7, "layers": True},
    "pre-activation, all layers": {"arch": "preact-resnet20", "size": 19, "layers": True},
    "pre-activation, projections": {"arch": "preact-resnet20", "size": 16, "shortcut": "B"},
    "linear join": {"arch": "linear-join-resnet20", "size": 18},
    "linear join, bottlenecks": {"arch": "linear-join-resnet50", "size": 33},
    "plain": {"arch": "plain20", "size": 16},
    "deep stem, pooled shortcuts": {"arch": "resnet14t", "size": 39},
    "groups": {"arch": "resnext50_32x4d", "size": 32},
    "without normalisation": {"arch": "resnet20", "size": 16, "norm": "none"},
    "some layers in float": {"arch": "resnet20", "size": 16, "keep_float": (0, 1, 8)},
}
BOUNDS = {"float16": 1e-2, "bfloat16": 2e-1, "int8": 1e-1}
"""Largest error of an output: root mean square, as a share of its spread. In int8, a value that ONNX Runtime rounds to
the other side of a half is a whole step away, and random weights amplify that: the integer reference is exact."""


def spread_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the differences, as a share of the standard deviation of the expected values."""
    return float(np.sqrt(np.mean((found.astype(np.float64) - expected) ** 2)) / np.std(expected))


@pytest.mark.parametrize(
    "name", [name if name.startswith("tiny") else pytest.param(name, marks=takes_minutes) for name in NETWORKS]
)
def test_networks_compute_what_their_files_say(name: str, tmp_path: Path) -> None:
    settings = dict(NETWORKS[name])
    files = write_network(settings.pop("arch"), tmp_path, **settings)
    images = files.images[:3]
    for precision, loads in (("float16", "maps"), ("int8", "maps"), ("int8", "pointers")):
        found = interpret(files.of(precision), precision, loads, images, tmp_path)
        expected = by_onnxruntime(files.of(precision), images)
        assert found.outputs.keys() == expected.keys()
        errors = {key: spread_error(found.outputs[key], expected[key]) for key in expected}
        assert max(errors.values()) < BOUNDS[precision], (precision, loads, errors)
        if precision == "int8":
            assert found.different == []
            assert found.compared == integer_convolutions(files.int8) != set()


@takes_minutes
def test_bfloat16_keeps_its_bound(tmp_path: Path) -> None:
    files = write_network("resnet20", tmp_path, size=16)
    images = files.images[:3]
    found = interpret(files.float32, "bfloat16", "maps", images, tmp_path)
    expected = by_onnxruntime(files.float32, images)
    errors = {key: spread_error(found.outputs[key], expected[key]) for key in expected}
    # Eight bits of each value are left: 5e-2 after all layers, and more where logits are differences of large sums.
    assert max(errors.values()) < BOUNDS["bfloat16"], errors
    assert errors["feature_map"] < 5e-2


@takes_minutes
def test_any_batch_size_gives_each_image_the_same_values(tmp_path: Path) -> None:
    """A block of pixels that ends in the middle of an image, and one that is larger than all of them."""
    files = write_network("tiny", tmp_path, size=13)
    single = [interpret(files.int8, "int8", "maps", files.images[[place]], tmp_path).outputs for place in range(2)]
    both = interpret(files.int8, "int8", "maps", files.images[:2], tmp_path).outputs
    for name, values in both.items():
        joined = np.concatenate([each[name] for each in single])
        np.testing.assert_allclose(values, joined, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("file", "precision"), [("model.onnx", "float16"), ("model.int8.onnx", "int8")])
def test_the_shipped_model_passes_its_golden_images(file: str, precision: Precision, tmp_path: Path) -> None:
    """As a service compares them before a version takes traffic."""
    version = Path(models.__path__[0]) / "pretrained" / "repository" / "fashion-mnist-resnet20" / "1"
    with np.load(version / "golden.npz") as golden:
        images, logits = golden["images"], golden["logits"]
    found = interpret(version / file, precision, "maps", images, tmp_path)
    assert parity.check(found.outputs["logits"], logits, precision).top1_agreement == 1.0
    assert found.different == []


@pytest.mark.parametrize(("file", "precision"), [("model.onnx", "float16"), ("model.int8.onnx", "int8")])
def test_all_configurations_of_a_convolution_agree(file: str, precision: str) -> None:
    """With tensor maps and with pointers, on the inputs with which they are measured."""
    convolutions = compare_candidates(tiny.FOLDER / tiny.REPOSITORY / "tiny" / "1" / file, precision)
    assert {len(outputs) for outputs in convolutions} == {2, 3}
    for outputs in convolutions:
        assert all(agrees and values > 1000 for agrees, values in outputs), outputs
