"""The same tests for every executor: the right answers, of any number of images, and only what was asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import build
from models import manifest, parity
from models.checkpoint import Checkpoint
from models.manifest import Precision
from models.openvino_core import core
from models.parity import Float32Array
from models.preprocess import UInt8Array
from service import executors
from service.executors import Executor, ExecutorError

Kind = tuple[str, Precision]
COMPUTING: list[Kind] = [
    ("onnxruntime-cpu", "float32"),
    ("onnxruntime-cpu", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
]
if "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
    COMPUTING.remove(("openvino", "bfloat16"))
KINDS: list[Kind] = [*COMPUTING, ("simulated:0", "float32")]
OUTPUTS = ("logits", "probabilities", "embedding", "feature_map")


@pytest.fixture(scope="session")
def repository(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model `tiny` in every precision."""
    folder = tmp_path_factory.mktemp("precisions")
    checkpoint.save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "tiny", float16=True, int8=True)
    return folder / "repository"


def load(name: str, repository: Path, precision: Precision = "float32") -> Executor:
    version = repository / "tiny" / "1"
    described = manifest.read(version)
    runtime = executors.find(name)
    return runtime.factory(version, described, runtime.choose(described, precision), precision, 2, runtime.argument)


@pytest.fixture(params=KINDS, ids="-".join)
def executor(request: pytest.FixtureRequest, repository: Path) -> Iterator[Executor]:
    name, precision = request.param
    executor = load(name, repository, precision)
    yield executor
    executor.close()


@pytest.fixture(scope="session")
def golden(repository: Path) -> tuple[UInt8Array, Float32Array]:
    """Images and the eager model's logits for them."""
    with np.load(repository / "tiny" / "1" / "golden.npz") as file:
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


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize(("name", "precision"), COMPUTING)
def test_the_eager_logits_whatever_the_size_of_the_batch(
    name: str, precision: Precision, size: int, repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    images, logits = golden
    executor = load(name, repository, precision)
    assert executor.computes
    batches = [images[first : first + size] for first in range(0, len(images), size)]
    answer = np.concatenate([run(executor, batch, "logits")["logits"] for batch in batches])
    executor.close()
    parity.check(answer, logits, precision)


def test_less_precision_is_really_used(repository: Path, golden: tuple[UInt8Array, Float32Array]) -> None:
    """Or a runtime that goes back to float32 would pass for a fast one, and "float32" would be something else."""
    errors = {}
    for name, precision in COMPUTING:
        executor = load(name, repository, precision)
        errors[name, precision] = parity.compare(run(executor, golden[0], "logits")["logits"], golden[1]).logit_error
        executor.close()
    assert all((error > 1e-3) == (precision != "float32") for (_, precision), error in errors.items()), errors


@pytest.mark.parametrize("size", [1, 3, 17])
def test_simulated_answers_can_be_told_apart(
    size: int, repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    executor = load("simulated:0", repository)
    assert not executor.computes
    images = take(golden[0], size)
    answer = run(executor, images, "logits")["logits"]
    assert answer.argmax(1).tolist() == [int(np.floor(np.mean(image))) % 5 for image in images]


@pytest.mark.parametrize("size", [1, 17])
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


@pytest.mark.parametrize(("name", "precision"), COMPUTING)
def test_the_embedding_is_the_mean_of_the_feature_map(
    name: str, precision: Precision, repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    executor = load(name, repository, precision)
    answers = run(executor, golden[0], "embedding", "feature_map")
    executor.close()
    # OpenVINO computes the head of int8 graphs in bfloat16.
    tolerance = 1e-4 if precision == "float32" or name == "onnxruntime-cpu" else 1e-2
    np.testing.assert_allclose(answers["embedding"], answers["feature_map"].mean((2, 3)), rtol=tolerance, atol=1e-3)


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


@pytest.mark.parametrize("name", ["simulated:soon", "onnxruntime-cpu:3", "openvino:GPU"])
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


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("onnxruntime-cpu", "int8", "only model.onnx: export it again with --int8"),
        ("openvino", "int8", "only model.onnx: export it again with --int8"),
        ("onnxruntime-cpu", "bfloat16", "does not compute in bfloat16; it does in: float32, int8"),
    ],
)
def test_a_precision_that_cannot_be_had(name: str, precision: Precision, message: str, tiny_repository: Path) -> None:
    with pytest.raises(ExecutorError, match=message):
        load(name, tiny_repository, precision)


def test_each_int8_artifact_goes_to_the_runtime_that_it_was_made_for(repository: Path) -> None:
    described = manifest.read(repository / "tiny" / "1")
    files = {name: executors.find(name).choose(described, "int8").file for name in ("onnxruntime-cpu", "openvino")}
    assert files == {"onnxruntime-cpu": "model.int8-ort.onnx", "openvino": "model.int8.onnx"}


def test_a_file_that_openvino_cannot_load(repository: Path, tmp_path: Path) -> None:
    version = Path(shutil.copytree(repository / "tiny" / "1", tmp_path / "tiny" / "1"))
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes()[:-1000])
    with pytest.raises(ExecutorError, match=r"model\.onnx: OpenVINO cannot load it"):
        load("openvino", tmp_path)


def test_a_signal_after_one_openvino_executor_replaced_another(repository: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from models import manifest
from service import executors

version = Path(sys.argv[1])
described = manifest.read(version)
runtime = executors.find("openvino")
artifact = runtime.choose(described, "float32")
old, new = (runtime.factory(version, described, artifact, "float32", 1, "") for _ in range(2))
old.close()
del old
new.close()
del new
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    arguments = [sys.executable, "-c", code, str(repository / "tiny" / "1")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "handled\n"


def test_runtimes_are_imported_when_chosen_and_torch_never() -> None:
    code = (
        "import sys, service.app, service.classify, service.executors as e; e.find('simulated');"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)));"
        "e.find('onnxruntime-cpu'); print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['onnxruntime']"]
