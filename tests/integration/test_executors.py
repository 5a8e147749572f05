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

from models.artifact import manifest
from models.artifact.manifest import Precision
from service import executors
from service.executors.base import Executor, ExecutorError, Source, compute
from tests.support.tiny import Golden


def load(name: str, repository: Path, precision: Precision = "float32") -> Executor:
    version = repository / "tiny" / "1"
    described = manifest.read(version)
    runtime = executors.find(name)
    artifact = runtime.select_artifact(described, precision)
    return runtime.make(Source(version, described, artifact, precision, 2, runtime.argument))


@pytest.mark.parametrize("size", [1, 3, 16])
def test_simulated_answers_can_be_told_apart(size: int, tiny_repository: Path, golden: Golden) -> None:
    executor = load("simulated:0", tiny_repository)
    assert not executor.computes
    images = golden[0][:size]
    answer = compute(executor, images, frozenset({"logits"}))["logits"]
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


def test_each_int8_artifact_goes_to_the_runtime_that_it_was_made_for(full_repository: Path) -> None:
    described = manifest.read(full_repository / "tiny" / "1")
    files = {
        name: executors.find(name).select_artifact(described, "int8").file for name in ("onnxruntime-cpu", "openvino")
    }
    assert files == {"onnxruntime-cpu": "model.int8-ort.onnx", "openvino": "model.int8.onnx"}


def test_a_file_that_openvino_cannot_load(tiny_repository: Path, tmp_path: Path) -> None:
    version = Path(shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "tiny" / "1"))
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes()[:-1000])
    with pytest.raises(ExecutorError, match=r"model\.onnx: OpenVINO cannot load it"):
        load("openvino", tmp_path)


def test_a_signal_after_one_openvino_executor_replaced_another(tiny_repository: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from models.artifact import manifest
from service import executors

version = Path(sys.argv[1])
described = manifest.read(version)
runtime = executors.find("openvino")
source = executors.Source(version, described, runtime.select_artifact(described, "float32"), "float32", 1)
old, new = (runtime.make(source) for _ in range(2))
old.close()
del old
new.close()
del new
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    arguments = [sys.executable, "-c", code, str(tiny_repository / "tiny" / "1")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "handled\n"


def test_runtimes_are_imported_when_chosen_and_torch_never() -> None:
    code = (
        "import sys, service.app, service.cli.classify, service.executors as e; e.find('simulated');"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)));"
        "e.find('onnxruntime-cpu'); print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['onnxruntime']"]
