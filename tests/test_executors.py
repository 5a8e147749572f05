"""The same tests for every executor: the right answers, of any number of images, and only what was asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import manifest
from models.parity import Float32Array
from models.preprocess import UInt8Array
from service import executors
from service.executors import Executor, ExecutorError, choose_artifact

COMPUTING = ["onnxruntime-cpu"]
NAMES = [*COMPUTING, "simulated:0"]
OUTPUTS = ("logits", "probabilities", "embedding", "feature_map")


def load(name: str, repository: Path) -> Executor:
    version = repository / "tiny" / "1"
    described = manifest.read(version)
    factory, argument = executors.find(name)
    return factory(version, described, choose_artifact(described), 2, argument)


@pytest.fixture(params=NAMES)
def executor(request: pytest.FixtureRequest, tiny_repository: Path) -> Iterator[Executor]:
    executor = load(request.param, tiny_repository)
    yield executor
    executor.close()


@pytest.fixture(scope="session")
def golden(tiny_repository: Path) -> tuple[UInt8Array, Float32Array]:
    """Images and the eager model's logits for them."""
    with np.load(tiny_repository / "tiny" / "1" / "golden.npz") as file:
        return file["images"], file["logits"]


def run(executor: Executor, images: UInt8Array, *outputs: str) -> dict[str, Float32Array]:
    buffer = executor.acquire(len(images))
    assert buffer.dtype == np.uint8
    assert buffer.shape == images.shape
    buffer[:] = images
    return executor.run(buffer, frozenset(outputs))


def take(images: UInt8Array, count: int) -> UInt8Array:
    """The first `count`, beginning again at the end."""
    return images[np.arange(count) % len(images)]


@pytest.mark.parametrize("size", [1, 3, 17])
@pytest.mark.parametrize("name", COMPUTING)
def test_the_eager_logits_whatever_the_size_of_the_batch(
    name: str, size: int, tiny_repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    images, logits = golden
    executor = load(name, tiny_repository)
    assert executor.computes
    answer = run(executor, take(images, size), "logits")["logits"]
    executor.close()
    np.testing.assert_allclose(answer, logits[np.arange(size) % len(images)], atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 17])
def test_simulated_answers_can_be_told_apart(
    size: int, tiny_repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    executor = load("simulated:0", tiny_repository)
    assert not executor.computes
    images = take(golden[0], size)
    answer = run(executor, images, "logits")["logits"]
    assert answer.argmax(1).tolist() == [int(np.floor(np.mean(image))) % 5 for image in images]


@pytest.mark.parametrize("size", [1, 3, 17])
def test_a_row_for_each_image_in_float32(
    executor: Executor, size: int, golden: tuple[UInt8Array, Float32Array]
) -> None:
    answers = run(executor, take(golden[0], size), *OUTPUTS)
    assert {name: (len(value), str(value.dtype)) for name, value in answers.items()} == {
        name: (size, "float32") for name in OUTPUTS
    }
    assert answers["logits"].shape == answers["probabilities"].shape == (size, 5)
    assert answers["embedding"].ndim == 2
    assert answers["feature_map"].ndim == 4


def test_probabilities_are_the_softmax_of_the_logits(
    executor: Executor, golden: tuple[UInt8Array, Float32Array]
) -> None:
    answers = run(executor, golden[0], "logits", "probabilities")
    exponentials = np.exp(answers["logits"].astype(np.float64))
    np.testing.assert_allclose(
        answers["probabilities"], exponentials / exponentials.sum(1, keepdims=True), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(answers["probabilities"].sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", COMPUTING)
def test_the_embedding_is_the_mean_of_the_feature_map(
    name: str, tiny_repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    executor = load(name, tiny_repository)
    answers = run(executor, golden[0], "embedding", "feature_map")
    executor.close()
    np.testing.assert_allclose(answers["embedding"], answers["feature_map"].mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", [[name] for name in OUTPUTS] + [["embedding", "probabilities"]])
def test_only_what_was_asked_for(
    executor: Executor, outputs: list[str], golden: tuple[UInt8Array, Float32Array]
) -> None:
    assert sorted(run(executor, golden[0][:2], *outputs)) == outputs


def test_answers_are_not_touched_by_the_next_batch(executor: Executor, golden: tuple[UInt8Array, Float32Array]) -> None:
    images, _ = golden
    first = run(executor, images[:4], "logits")["logits"]
    before = first.copy()
    run(executor, images[4:8], "logits")
    np.testing.assert_array_equal(first, before)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ExecutorError, match=r"'tensorflow'.*onnxruntime-cpu.*simulated"):
        executors.find("tensorflow:1")


@pytest.mark.parametrize("name", ["simulated:soon", "onnxruntime-cpu:3"])
def test_an_argument_that_means_nothing_is_refused(name: str, tiny_repository: Path) -> None:
    with pytest.raises(ExecutorError, match=name.partition(":")[2]):
        load(name, tiny_repository)


class Unloadable(MetaPathFinder):
    """An `onnxruntime` that is missing, or that is there and whose shared library is not."""

    def __init__(self, error: ImportError) -> None:
        self._error = error

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "onnxruntime":
            raise self._error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), "needs the package 'onnxruntime'"),
        (ImportError("libgomp.so.1: cannot open"), "installed but cannot be loaded: libgomp.so.1"),
    ],
)
def test_not_installed_is_told_from_broken(error: ImportError, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finders: list[Any] = [Unloadable(error), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.delitem(sys.modules, "service.executors.onnxruntime_cpu", raising=False)
    with pytest.raises(ExecutorError, match=message):
        executors.find("onnxruntime-cpu")


def test_a_version_without_float32_onnx_cannot_be_served(tiny_repository: Path) -> None:
    described = manifest.read(tiny_repository / "tiny" / "1")
    other = described.artifacts[0].model_copy(update={"precision": "float16"})
    with pytest.raises(ExecutorError, match="tiny version 1 has no float32 ONNX"):
        choose_artifact(described.model_copy(update={"artifacts": (other,)}))
    assert (
        choose_artifact(described.model_copy(update={"artifacts": (other, *described.artifacts)}))
        == (described.artifacts[0])
    )


def test_runtimes_are_imported_when_chosen_and_torch_never() -> None:
    code = (
        "import sys, service.app, service.classify, service.executors as e; e.find('simulated');"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)));"
        "e.find('onnxruntime-cpu'); print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['onnxruntime']"]
