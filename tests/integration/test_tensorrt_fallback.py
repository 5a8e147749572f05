"""A version for which TensorRT is configured, or has an engine: what serves it, and what its status states."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models.artifact import manifest
from models.runtime import cuda_driver, engine_cache, tensorrt_runtime, tuning
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.engine_plan import BatchRange, ComputeCapability, Plan, Platform
from models.runtime.tensorrt_runtime import NoTensorRT
from models.runtime.tuning import Bounds, Host, Measurement, TuningProfile
from service.core.cpus import available_cpus
from service.core.settings import Settings
from service.executors import simulated, tensorrt
from service.executors.base import Executor, ExecutorError, Source
from tests.support.service import Client, serve
from tests.support.tiny import Eager, Photographs

H100 = Platform("tensorrt", "11.4.0.106", ComputeCapability(9, 0), "NVIDIA H100")
A100 = Platform("tensorrt", "11.4.0.106", ComputeCapability(8, 0), "NVIDIA A100")
OLDER = Platform("tensorrt", "10.16.1.11", ComputeCapability(9, 0), "NVIDIA H100")
BUILT_FOR = "float32-sm90-trt10.16.plan: built for TensorRT 10.16.1.11 and compute capability 9.0 (NVIDIA H100), "


def put_engine(cache: Path, repository: Path, platform: Platform) -> Path:
    """Put an engine of `tiny` into the cache."""
    artifact = manifest.read(repository / "tiny" / "1").artifacts[0]
    plan = Plan.of(b"a plan", artifact, platform, (BatchRange(min=1, opt=1, max=8),))
    return engine_cache.write(cache, plan, b"a plan")


@pytest.fixture
def platforms(monkeypatch: pytest.MonkeyPatch) -> list[Platform | Exception]:
    """The platforms that TensorRT finds, or the error; by default an H100, whose GPU ONNX Runtime cannot use."""
    found: list[Platform | Exception] = [H100]

    def find() -> list[Platform]:
        for platform in found:
            if isinstance(platform, Exception):
                raise platform
        return [platform for platform in found if isinstance(platform, Platform)]

    def none() -> list[Device]:
        raise NoDevice("no NVIDIA driver: libcuda.so.1 is not there")

    monkeypatch.setattr(tensorrt_runtime, "platforms", find)
    monkeypatch.setattr(cuda_driver, "devices", none)
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT loads engines; they compute as `simulated` does."""

    def make(source: Source) -> Executor:
        return simulated.SimulatedExecutor(Source(**{**vars(source), "argument": "0"}))

    monkeypatch.setattr(tensorrt, "EXECUTOR", make)


def model(client: Client) -> Any:
    return client.get("/v1/models/tiny").json()


def check_served(client: Client, photographs: Photographs, eager: Eager) -> None:
    answer = client.post("/v1/classify", content=photographs[0][1])
    best = answer.json()["results"][0]["predictions"][0]
    assert best["probability"] == pytest.approx(float(eager(photographs[0][1]).max()), abs=1e-4)
    assert client.get("/readyz").status_code == 200


def test_without_engines_the_machine_is_not_read(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_runtime, "platforms", lambda: pytest.fail("the machine was read"))
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert model(client)["engine"] is None


def test_other_runtimes_have_no_engine_status(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(tmp_path, tiny_repository, OLDER)
    monkeypatch.setattr(tensorrt_runtime, "platforms", lambda: pytest.fail("the machine was read"))
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="simulated:0")) as client:
        assert model(client)["engine"] is None


@pytest.mark.parametrize(
    ("error", "here"),
    [
        (NoDevice("no NVIDIA driver"), "and this machine: no NVIDIA driver"),
        (
            NoTensorRT("the package tensorrt is not installed"),
            "and this machine: the package tensorrt is not installed",
        ),
    ],
    ids=["no GPU", "no TensorRT"],
)
def test_machine_without_tensorrt_states_its_reason(
    error: Exception,
    here: str,
    platforms: list[Platform | Exception],
    tiny_repository: Path,
    tmp_path: Path,
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    platforms[:] = [error]
    put_engine(tmp_path, tiny_repository, OLDER)
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert model(client)["engine"] == {"state": "UNUSABLE", "reason": BUILT_FOR + here}
        check_served(client, photographs, eager)
        assert "degraded" not in client.get("/readyz").json()  # TensorRT is not configured
    assert f"tiny version 1: no TensorRT: {BUILT_FOR + here}" in caplog.messages


@pytest.mark.parametrize("built_for", [None, OLDER, A100], ids=["none", "older", "other GPU"])
def test_missing_engine_states_the_command_and_a_fallback_serves(
    built_for: Platform | None,
    platforms: list[Platform | Exception],
    tiny_repository: Path,
    tmp_path: Path,
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if built_for is not None:
        put_engine(tmp_path, tiny_repository, built_for)
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="tensorrt")) as client:
        status = model(client)["engine"]
        assert status["state"] == "MISSING"
        found = f"built for {built_for}, this machine has {H100}" if built_for else f"has been built for {H100}"
        version = tiny_repository / "tiny" / "1"
        command = f"build it: resnet-export engines {version} --cache {tmp_path} --precision float32"
        assert found in status["reason"] and status["reason"].endswith(command)
        assert (model(client)["executor"], model(client)["precision"]) == ("onnxruntime-cpu", "float32")
        check_served(client, photographs, eager)
        assert client.get("/readyz").json()["degraded"] == [f"tiny: TensorRT does not serve it: {status['reason']}"]
    assert command in caplog.text


def test_damaged_engine_is_missing(
    platforms: list[Platform | Exception], tiny_repository: Path, tmp_path: Path
) -> None:
    path = put_engine(tmp_path, tiny_repository, H100)
    path.write_bytes(path.read_bytes()[:-1])
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        status = model(client)["engine"]
        assert status["state"] == "MISSING"
        assert "its content is not what was built" in status["reason"]


def put_profile(cache: Path, repository: Path) -> None:
    """Put a profile into the cache in which TensorRT is best."""
    described = manifest.read(repository / "tiny" / "1")
    best = Measurement(
        executor="tensorrt", precision="float32", threads=7, batch=64, instances=3, images_per_second=1000.0,
        latency_ms=64.0, accuracy_loss=0.0, rounds=3,
    )  # fmt: skip
    profile = TuningProfile(
        schema=1, model="tiny", version=1, artifacts=tuning.hashes(described), host=Host.here(available_cpus()),
        created=datetime(2026, 1, 2, tzinfo=UTC), bounds=Bounds(), measurements=(best,),
    )  # fmt: skip
    tuning.write(cache, described, profile)


@pytest.mark.parametrize("tuned", [False, True], ids=["set", "tuned"])
def test_fallback_takes_no_value_that_was_chosen_for_tensorrt(
    tuned: bool, platforms: list[Platform | Exception], tiny_repository: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"executor": "tensorrt", "max_batch": 100, "threads": 7, "instances": 3}
    if tuned:
        put_profile(tmp_path, tiny_repository)
        options = {}
    settings = Settings(repository=tiny_repository, cache=tmp_path, **options)
    elsewhere = Settings(repository=tiny_repository, cache=tmp_path / "empty")
    with serve(settings) as client, serve(elsewhere) as default:
        assert model(client)["engine"]["state"] == "MISSING"
        for name in ("executor", "threads", "concurrent_batches", "max_batch"):
            assert model(client)[name] == model(default)[name]
        assert model(client)["config"]["max_batch"] == "default rule"


@pytest.mark.parametrize(("precision", "fallback"), [("float16", "float32"), ("int8", "int8")])
def test_fallback_keeps_a_precision_that_it_supports(
    precision: Any, fallback: str, platforms: list[Platform | Exception], tmp_path: Path
) -> None:
    platforms[:] = [NoDevice("no NVIDIA driver")]
    with serve(Settings(cache=tmp_path, executor="tensorrt", precision=precision)) as client:
        served = client.get("/v1/models/fashion-mnist-resnet20").json()
        assert (served["executor"], served["precision"]) == ("onnxruntime-cpu", fallback)
        assert served["engine"] == {"state": "UNUSABLE", "reason": "no NVIDIA driver"}


def test_new_engine_is_used_when_the_model_is_loaded_again(
    loads: None, platforms: list[Platform | Exception], tiny_repository: Path, tmp_path: Path
) -> None:
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="tensorrt")) as client:
        assert model(client)["executor"] == "onnxruntime-cpu"
        put_engine(tmp_path, tiny_repository, H100)
        client.portal.call(client.registry.refresh)
        assert model(client)["executor"] == "onnxruntime-cpu"
        client.portal.call(client.registry.load, "tiny")
        assert model(client)["executor"] == "tensorrt"
        assert model(client)["engine"] == {"state": "READY", "reason": None}
        assert "degraded" not in client.get("/readyz").json()
        key = client.registry.catalog.find("tiny").key
        client.portal.call(client.registry.load, "tiny")
        assert client.registry.catalog.find("tiny").key == key


def test_engine_that_tensorrt_refuses_is_unusable(
    platforms: list[Platform | Exception],
    tiny_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photographs: Photographs,
    eager: Eager,
) -> None:
    def refuse(source: Source) -> Executor:
        raise ExecutorError("tensorrt: Version tag does not match")

    monkeypatch.setattr(tensorrt, "EXECUTOR", refuse)
    put_engine(tmp_path, tiny_repository, H100)
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="tensorrt")) as client:
        assert model(client)["engine"] == {"state": "UNUSABLE", "reason": "tensorrt: Version tag does not match"}
        check_served(client, photographs, eager)
