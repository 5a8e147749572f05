"""A machine with a GPU: the executor that serves a version by default, and what serves it without its CUDA engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.artifact import manifest
from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.engine_plan import ComputeCapability
from service.core.settings import Settings
from service.executors.gpu.streams import BUCKETS
from service.registry import default_executor
from tests.support import fake_gpu
from tests.support.fake_gpu import FakeGpu
from tests.support.onnx_engine import BATCHES, functions, write_engine
from tests.support.service import Client, serve
from tests.support.tiny import Eager, Photographs


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def version(tiny_repository: Path) -> Path:
    return tiny_repository / "tiny" / "1"


def model(client: Client) -> Any:
    return client.get("/v1/models/tiny").json()


def check_served(client: Client, photographs: Photographs, eager: Eager) -> None:
    answer = client.post("/v1/classify", content=photographs[0][1])
    best = answer.json()["results"][0]["predictions"][0]
    assert best["probability"] == pytest.approx(float(eager(photographs[0][1]).max()), abs=1e-3)
    assert client.get("/readyz").status_code == 200


def command(version: Path, cache: Path, precision: str = "float16") -> str:
    return f"build it: resnet-export engines {version} --runtime cuda --cache {cache} --precision {precision}"


def test_engine_is_the_default_on_its_gpu(
    gpu: FakeGpu, tiny_repository: Path, version: Path, tmp_path: Path, photographs: Photographs, eager: Eager
) -> None:
    write_engine(tmp_path, version)
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        served = model(client)
        assert (served["executor"], served["precision"], served["max_batch"]) == ("cuda", "float16", max(BATCHES))
        assert served["engine"] == {"state": "READY", "reason": None}
        assert served["config"]["executor"] == "default rule"
        assert served["config"]["reason"].startswith("float16-sm90-cuda2.engine is in the engine cache")
        check_served(client, photographs, eager)
        assert "degraded" not in client.get("/readyz").json()
    assert gpu.driver.launches


@pytest.mark.parametrize(
    ("built", "options", "used"),
    [
        (("int8", "bfloat16"), {}, "bfloat16"),
        (("int8",), {}, "int8"),
        (("int8", "float16"), {"precision": "int8"}, "int8"),
        (("int8",), {"executor": "cuda"}, "int8"),
        (("int8", "float16"), {"executor": "cuda:0", "precision": "int8"}, "int8"),
    ],
)
def test_precision_is_that_of_an_engine(
    gpu: FakeGpu, full_repository: Path, tmp_path: Path, built: tuple[Any, ...], options: Any, used: str
) -> None:
    for precision in built:
        write_engine(tmp_path, full_repository / "tiny" / "1", precision)
    with serve(Settings(repository=full_repository, cache=tmp_path, **options)) as client:
        assert (model(client)["executor"].partition(":")[0], model(client)["precision"]) == ("cuda", used)


def test_float32_is_computed_by_onnxruntime(
    gpu: FakeGpu, tiny_repository: Path, version: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_engine(tmp_path, version)
    with serve(Settings(repository=tiny_repository, cache=tmp_path, precision="float32")) as client:
        assert (model(client)["executor"], model(client)["precision"]) == ("onnxruntime-cuda", "float32")
        assert model(client)["engine"] is None
    assert "no CUDA engine" not in caplog.text


def test_other_executors_have_no_state_of_the_engine(gpu: FakeGpu, tiny_repository: Path, tmp_path: Path) -> None:
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="onnxruntime-cpu")) as client:
        assert (model(client)["executor"], model(client)["engine"]) == ("onnxruntime-cpu", None)


@pytest.mark.parametrize("executor", [None, "cuda"])
def test_missing_engine_states_the_command_and_onnxruntime_serves(
    gpu: FakeGpu,
    tiny_repository: Path,
    version: Path,
    tmp_path: Path,
    executor: str | None,
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {} if executor is None else {"executor": executor, "max_batch": 100}
    with serve(Settings(repository=tiny_repository, cache=tmp_path, **options)) as client:
        served = model(client)
        assert (served["executor"], served["precision"], served["max_batch"]) == (
            "onnxruntime-cuda",
            "float32",
            max(BUCKETS),
        )
        assert served["engine"]["state"] == "MISSING"
        assert served["engine"]["reason"].startswith("no CUDA engine in float16 has been built for compute capability")
        assert served["engine"]["reason"].endswith(command(version, tmp_path))
        check_served(client, photographs, eager)
        assert ("degraded" in client.get("/readyz").json()) == (executor is not None)
    lines = [line for line in caplog.messages if "no CUDA engine:" in line]
    assert len(lines) == 1 and lines[0].endswith(command(version, tmp_path))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def of_another_file(path: Path) -> None:
    path.write_bytes(b"RNCUDAEN" + bytes(100))


@pytest.mark.parametrize("spoil", [damage, cut_off, of_another_file])
def test_damaged_engine_is_not_used(
    gpu: FakeGpu,
    tiny_repository: Path,
    version: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(write_engine(tmp_path, version))
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert (model(client)["executor"], model(client)["engine"]["state"]) == ("onnxruntime-cuda", "MISSING")
        reason = model(client)["engine"]["reason"]
        check_served(client, photographs, eager)
        assert client.get("/readyz").json()["degraded"] == [f"tiny: CUDA engine does not serve it: {reason}"]
    assert [line for line in caplog.messages if "no CUDA engine:" in line] == [
        f"tiny version 1: no CUDA engine: {reason}"
    ]
    assert "build it again" in reason and reason.endswith(command(version, tmp_path))
    assert gpu.driver.launches == []


def test_engine_of_another_gpu_is_not_used(
    gpu: FakeGpu,
    tiny_repository: Path,
    version: Path,
    tmp_path: Path,
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_engine(tmp_path, version, architecture="sm_80")
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert model(client)["executor"] == "onnxruntime-cuda"
        check_served(client, photographs, eager)
    assert len([line for line in caplog.messages if "float16-sm80-cuda2.engine: built for other GPUs" in line]) == 1


@pytest.mark.parametrize(
    ("changes", "kernels", "message"),
    [
        ({"cuda": 14000}, {}, "cuda: cuLibraryLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        ({"code": b"\x7fELF?"}, {}, "cuda: cuLibraryLoadData: CUDA_ERROR_INVALID_IMAGE"),
        ({}, {"network": lambda launched: None}, "wrong outputs for the golden images"),
    ],
    ids=["newer driver", "other code", "wrong answers"],
)
def test_engine_that_the_gpu_does_not_run_is_not_used(
    gpu: FakeGpu,
    tiny_repository: Path,
    version: Path,
    tmp_path: Path,
    changes: Any,
    kernels: Any,
    message: str,
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_engine(tmp_path, version, **changes)
    gpu.driver.functions.update(functions(**kernels))
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert (model(client)["executor"], model(client)["engine"]["state"]) == ("onnxruntime-cuda", "UNUSABLE")
        assert message in model(client)["engine"]["reason"]
        check_served(client, photographs, eager)
    assert len([line for line in caplog.messages if "no CUDA engine:" in line and message in line]) == 1


def test_new_engine_is_used_when_the_model_is_loaded_again(
    gpu: FakeGpu, tiny_repository: Path, version: Path, tmp_path: Path
) -> None:
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert model(client)["executor"] == "onnxruntime-cuda"
        write_engine(tmp_path, version)
        client.portal.call(client.registry.load, "tiny")
        assert (model(client)["executor"], model(client)["engine"]["state"]) == ("cuda", "READY")


@pytest.mark.parametrize("executor", [None, "cuda", "cuda:0"])
def test_without_a_provider_for_gpus_the_cpu_computes(
    gpu: FakeGpu, tiny_repository: Path, tmp_path: Path, executor: str | None, photographs: Photographs, eager: Eager
) -> None:
    gpu.onnxruntime.providers = ("CPUExecutionProvider",)
    options: dict[str, Any] = {} if executor is None else {"executor": executor}
    with serve(Settings(repository=tiny_repository, cache=tmp_path, **options)) as client:
        assert (model(client)["executor"], model(client)["engine"]["state"]) == ("onnxruntime-cpu", "MISSING")
        check_served(client, photographs, eager)


def test_provider_that_cannot_be_loaded_is_replaced_by_the_cpu(
    gpu: FakeGpu, tiny_repository: Path, tmp_path: Path, photographs: Photographs, eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    gpu.onnxruntime.loads_cuda = False
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert model(client)["executor"] == "onnxruntime-cpu"
        check_served(client, photographs, eager)
    assert "the CPU computes: ONNX Runtime cannot load its CUDA provider" in caplog.text


def test_executor_that_was_chosen_is_not_replaced(gpu: FakeGpu, tiny_repository: Path, tmp_path: Path) -> None:
    gpu.onnxruntime.loads_cuda = False
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="onnxruntime-cuda")) as client:
        assert client.get("/readyz").status_code == 503


def test_old_gpu_says_why(gpu: FakeGpu, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Device("Old GPU", ComputeCapability(7, 5))
    monkeypatch.setattr("models.runtime.cuda_driver.devices", lambda: [old])
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert model(client)["executor"] == "onnxruntime-cuda"
        reason = "Old GPU has compute capability 7.5, CUDA engines need 8.0"
        assert model(client)["engine"] == {"state": "UNUSABLE", "reason": reason}


def test_without_a_gpu_the_engine_says_why(
    tiny_repository: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image for GPUs that runs elsewhere."""

    def none() -> list[Device]:
        raise NoDevice("no NVIDIA driver")

    monkeypatch.setattr("models.runtime.cuda_driver.devices", none)
    write_engine(tmp_path, version)
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="cuda")) as client:
        assert (model(client)["executor"], model(client)["precision"]) == ("onnxruntime-cpu", "float32")
        assert model(client)["engine"]["state"] == "UNUSABLE"
        assert model(client)["engine"]["reason"] == "no NVIDIA driver"
        assert default_executor.find_default_device(tmp_path) == "cpu"


def test_without_the_bindings_nothing_is_said(
    gpu: FakeGpu, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with a GPU where the service is installed for the CPU."""
    monkeypatch.setattr(cuda_driver, "has_bindings", lambda: False)
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert (model(client)["executor"], model(client)["engine"]) == ("onnxruntime-cpu", None)


def test_default_rule_names_only_precisions_of_the_version(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    described = manifest.read(version)
    found = default_executor.find_default(tmp_path, described, "bfloat16")
    assert (found.executor, found.precision) == ("onnxruntime-cuda", "bfloat16")
    write_engine(tmp_path, version, "bfloat16")
    assert default_executor.find_default(tmp_path, described, "bfloat16").executor == "cuda"


def test_device_of_the_default_executor(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    """It decides the number of workers, before a model is loaded."""
    assert default_executor.find_default_device(tmp_path) == "gpu"
    gpu.onnxruntime.providers = ("CPUExecutionProvider",)
    assert default_executor.find_default_device(tmp_path) == "cpu"
    write_engine(tmp_path, version)
    assert default_executor.find_default_device(tmp_path) == "gpu"
