"""How an executor is found and chosen. What all of them must do is in `test_conformance`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import build
from models import manifest
from models.checkpoint import Checkpoint
from models.manifest import Precision
from models.parity import Float32Array
from models.preprocess import UInt8Array
from service import executors
from service.executors import Executor, ExecutorError

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


@pytest.mark.parametrize("size", [1, 3, 17])
def test_simulated_answers_can_be_told_apart(
    size: int, repository: Path, golden: tuple[UInt8Array, Float32Array]
) -> None:
    executor = load("simulated:0", repository)
    assert not executor.computes
    images = take(golden[0], size)
    answer = run(executor, images, "logits")["logits"]
    assert answer.argmax(1).tolist() == [int(np.floor(np.mean(image))) % 5 for image in images]


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
