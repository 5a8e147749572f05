"""How an executor is found and selected. `test_conformance` tests the contract of all executors."""

from __future__ import annotations

import os
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
def test_simulated_outputs_differ_between_images(size: int, tiny_repository: Path, golden: Golden) -> None:
    executor = load("simulated:0", tiny_repository)
    assert not executor.computes
    images = golden[0][:size]
    answer = compute(executor, images, frozenset({"logits"}))["logits"]
    assert answer.argmax(1).tolist() == [int(np.mean(image[::8, ::8])) % 5 for image in images]


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ExecutorError, match=r"'tensorflow'.*onnxruntime-cpu.*simulated"):
        executors.find("tensorflow:1")


@pytest.mark.parametrize("name", ["simulated:soon", "onnxruntime-cpu:3", "openvino:GPU"])
def test_invalid_argument_is_refused(name: str, tiny_repository: Path) -> None:
    with pytest.raises(ExecutorError, match=name.partition(":")[2]):
        load(name, tiny_repository)


class Unloadable(MetaPathFinder):
    """Makes `onnxruntime` missing, or installed without its shared library."""

    def __init__(self, error: ImportError) -> None:
        self._error = error

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "onnxruntime":
            raise self._error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), "needs the package onnxruntime: "),
        (ImportError("libgomp.so.1: cannot open"), "installed but cannot be loaded: libgomp.so.1"),
    ],
)
def test_missing_and_broken_packages_have_different_errors(
    error: ImportError, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finders: list[Any] = [Unloadable(error), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    for name in ("onnxruntime", "models.runtime.onnxruntime", "service.executors.onnxruntime_cpu"):
        monkeypatch.delitem(sys.modules, name, raising=False)
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
def test_unavailable_precision_is_refused(name: str, precision: Precision, message: str, tiny_repository: Path) -> None:
    with pytest.raises(ExecutorError, match=message):
        load(name, tiny_repository, precision)


def test_each_runtime_gets_its_int8_artifact(full_repository: Path) -> None:
    described = manifest.read(full_repository / "tiny" / "1")
    files = {
        name: executors.find(name).select_artifact(described, "int8").file for name in ("onnxruntime-cpu", "openvino")
    }
    assert files == {"onnxruntime-cpu": "model.int8-ort.onnx", "openvino": "model.int8.onnx"}


def test_openvino_error_names_the_file(tiny_repository: Path, tmp_path: Path) -> None:
    version = Path(shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "tiny" / "1"))
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes()[:-1000])
    with pytest.raises(ExecutorError, match=r"model\.onnx: OpenVINO cannot load it"):
        load("openvino", tmp_path)


@pytest.mark.slow
def test_signal_handlers_survive_the_close_of_openvino_executors(tiny_repository: Path) -> None:
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


LOAD = """
import os
import sys
from pathlib import Path
from models.artifact import manifest
from service import executors

version = Path(sys.argv[1])
described = manifest.read(version)
runtime = executors.find("onnxruntime-cpu")
runtime.make(executors.Source(version, described, runtime.select_artifact(described, "float32"), "float32", 1))
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("value", "off"), [(None, "1"), ("", "1"), ("0", "0")])
def test_onnxruntime_writes_telemetry_only_if_wanted(
    value: str | None, off: str, tiny_repository: Path, tmp_path: Path
) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path)} | ({} if value is None else {"ORT_DISABLE_TELEMETRY": value})
    arguments = [sys.executable, "-c", LOAD, str(tiny_repository / "tiny" / "1")]
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"{off}\n"
    if off == "1":  # with 0 the package decides: it also writes nothing where it sees a variable such as CI
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_runtimes_are_imported_only_if_chosen() -> None:
    code = (
        "import sys, service.app, service.cli.classify, service.executors as e; e.find('simulated');"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)));"
        "e.find('onnxruntime-cpu'); print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['onnxruntime']"]
