"""A service whose engine cache holds what this machine cannot run: it serves, says why, and has another built."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.artifact import manifest
from models.artifact.manifest import Precision
from models.runtime import cuda_driver, engine_cache
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_plan import BatchRange, ComputeCapability, Plan, Platform
from models.runtime.tensorrt_runtime import NoTensorRT
from service.core.settings import Settings
from service.registry import registry, repository
from service.registry.execution_config import ExecutionConfig
from service.registry.plans import Plans, build_command
from service.registry.repository import LoadedModel, LoadError
from tests.support.service import Client, serve
from tests.support.tiny import Eager

H100 = Platform("tensorrt", "11.4.0.106", ComputeCapability(9, 0), "NVIDIA H100")
A100 = Platform("tensorrt", "11.4.0.106", ComputeCapability(8, 0), "NVIDIA A100")
OLDER = Platform("tensorrt", "10.16.1.11", ComputeCapability(9, 0), "NVIDIA H100")
BOTH = "float32-sm90-trt10.16.plan: built for TensorRT 10.16.1.11 and compute capability 9.0 (NVIDIA H100), "

Photographs = list[tuple[str, bytes]]


def put(cache: Path, repo: Path, machine: Platform) -> None:
    """Leave an engine of `tiny` in the cache."""
    artifact = manifest.read(repo / "tiny" / "1").artifacts[0]
    plan = Plan.of(b"a plan", artifact, machine, (BatchRange(min=1, opt=1, max=8),))
    engine_cache.write(cache, plan, b"a plan")


def no_device() -> list[Platform]:
    raise NoDevice("no NVIDIA driver: libcuda.so.1 is not there")


def no_tensorrt() -> list[Platform]:
    raise NoTensorRT("the package tensorrt or tensorrt_rtx is not installed")


class Builder:
    """A command that does what it is told once it is let: a line of Python, by default to put a built engine there."""

    def __init__(self, folder: Path, body: str = "shutil.copytree(built, cache, dirs_exist_ok=True)") -> None:
        self.versions: list[Path] = []
        self._gate = folder / "gate"
        self._built = folder / "built"
        self._body = body
        os.mkfifo(self._gate)

    def __call__(self, version: Path, cache: Path, precision: Precision) -> Sequence[str]:
        self.versions.append(version)
        put(self._built, version.parent.parent, H100)
        script = f"import shutil, sys; gate, built, cache = sys.argv[1:]; open(gate).read(); {self._body}"
        return [sys.executable, "-S", "-c", script, str(self._gate), str(self._built), str(cache)]

    def let(self, client: Client) -> None:
        """Let it build, and wait for what follows."""
        self._gate.open("w").close()
        finish(client)


def finish(client: Client) -> None:
    """Wait until nothing is being built."""

    async def gather() -> None:
        await asyncio.gather(*client.service.registry._plans._tasks)

    client.portal.call(gather)


def provide(monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Have the service made with another machine or builder."""
    monkeypatch.setattr(registry, "Plans", partial(Plans, **options))


def engine(client: Client) -> Any:
    return client.get("/v1/models/tiny").json()["engine"]


def check_served(client: Client, photographs: Photographs, eager: Eager) -> None:
    answer = client.post("/v1/classify", content=photographs[0][1])
    best = answer.json()["results"][0]["predictions"][0]
    assert best["probability"] == pytest.approx(float(eager(photographs[0][1]).max()), abs=1e-4)
    assert client.get("/readyz").status_code == 200


def test_an_empty_cache_is_nothing_to_tell_of(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(monkeypatch, machines=lambda: pytest.fail("the machine was looked at"))
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert engine(client) is None


@pytest.mark.parametrize(
    ("machines", "here"),
    [
        (no_device, "and here: no NVIDIA driver: libcuda.so.1 is not there"),
        (no_tensorrt, "and here: the package tensorrt or tensorrt_rtx is not installed"),
    ],
)
def test_where_no_engine_can_run_its_reason_is_told(
    machines: Any,
    here: str,
    tiny_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photographs: Photographs,
    eager: Eager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(tmp_path, tiny_repository, OLDER)
    provide(monkeypatch, machines=machines, command=lambda *_: pytest.fail("an engine was built"))
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert engine(client) == {"state": "UNUSABLE", "reason": BOTH + here}
        check_served(client, photographs, eager)
    assert f"tiny version 1: TensorRT does not serve it: {BOTH + here}" in caplog.messages


@pytest.mark.parametrize("built_for", [OLDER, A100], ids=["stale", "foreign"])
def test_another_engine_is_built_in_its_place(
    built_for: Platform,
    tiny_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photographs: Photographs,
    eager: Eager,
) -> None:
    put(tmp_path, tiny_repository, built_for)
    builder = Builder(tmp_path)
    provide(monkeypatch, machines=lambda: [H100], command=builder)
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        told = engine(client)
        assert told["state"] == "BUILDING"
        assert f"built for {built_for}, this machine has {H100}" in told["reason"]
        check_served(client, photographs, eager)
        builder.let(client)
        assert engine(client) == {"state": "READY", "reason": None}
        check_served(client, photographs, eager)
    assert builder.versions == [tiny_repository / "tiny" / "1"]
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert engine(client) == {"state": "READY", "reason": None}
    assert len(builder.versions) == 1


def test_a_damaged_engine_is_built_again(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, tiny_repository, H100)
    plan = next(tmp_path.glob("*/*.plan"))
    plan.write_bytes(plan.read_bytes()[:-1])
    builder = Builder(tmp_path)
    provide(monkeypatch, machines=lambda: [H100], command=builder)
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        assert "its content is not what was built" in engine(client)["reason"]
        builder.let(client)
        assert engine(client)["state"] == "READY"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('error: out of memory')", "error: out of memory"),
        ("sys.exit(3)", "the builder ended with 3"),
        ("print('built: something')", "built: something"),
    ],
    ids=["an error", "nothing said", "nothing built"],
)
def test_a_builder_that_fails(
    body: str,
    reason: str,
    tiny_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photographs: Photographs,
    eager: Eager,
) -> None:
    put(tmp_path, tiny_repository, OLDER)
    builder = Builder(tmp_path, body)
    provide(monkeypatch, machines=lambda: [H100], command=builder)
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        builder.let(client)
        assert engine(client) == {"state": "FAILED", "reason": reason}
        check_served(client, photographs, eager)


def test_a_builder_that_is_not_there(tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, tiny_repository, OLDER)
    provide(monkeypatch, machines=lambda: [H100], command=lambda *_: ["/nowhere/python"])
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        finish(client)
        assert engine(client) == {"state": "FAILED", "reason": "/nowhere/python: No such file or directory"}


def test_a_service_that_ends_ends_its_builder(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, tiny_repository, OLDER)
    provide(monkeypatch, machines=lambda: [H100], command=Builder(tmp_path))
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        plans = client.service.registry._plans
        gate = os.open(tmp_path / "gate", os.O_WRONLY)  # the builder has begun, and waits until this is closed
        assert engine(client)["state"] == "BUILDING"
    os.close(gate)
    assert plans._process is not None
    assert plans._process.returncode == -signal.SIGTERM


def as_simulated(folder: Path, chosen: ExecutionConfig, *arguments: Any) -> LoadedModel:
    """Loads `simulated` where `tensorrt` is asked for, which needs a GPU."""
    executor = {"tensorrt": "simulated:0"}.get(chosen.executor, chosen.executor)
    return LOAD(folder, replace(chosen, executor=executor), *arguments)


LOAD = repository.load


def executor(client: Client) -> tuple[str, str]:
    told = client.get("/v1/models/tiny").json()
    return told["executor"], told["precision"]


def test_onnxruntime_serves_until_the_engine_is_built(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: Photographs, eager: Eager
) -> None:
    """With TensorRT asked for, nobody need have built anything, and it takes over at once."""
    builder = Builder(tmp_path)
    provide(monkeypatch, machines=lambda: [H100], command=builder)
    monkeypatch.setattr(repository, "load", as_simulated)
    monkeypatch.setattr(cuda_driver, "devices", no_device)
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="tensorrt")) as client:
        assert engine(client)["reason"] == f"no engine in float32 has been built for {H100}"
        assert executor(client) == ("onnxruntime-cpu", "float32")
        check_served(client, photographs, eager)
        builder.let(client)
        assert engine(client) == {"state": "READY", "reason": None}
        assert executor(client) == ("simulated:0", "float32")


def test_where_tensorrt_cannot_be_had_onnxruntime_serves_in_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(monkeypatch, machines=no_device)
    monkeypatch.setattr(cuda_driver, "devices", no_device)
    for precision, instead in (("float16", "float32"), ("int8", "int8")):
        with serve(Settings(cache=tmp_path, executor="tensorrt", precision=precision)) as client:  # type: ignore[arg-type]
            told = client.get("/v1/models/fashion-mnist-resnet20").json()
            assert (told["executor"], told["precision"]) == ("onnxruntime-cpu", instead)
            assert told["engine"] == {
                "state": "UNUSABLE",
                "reason": "no NVIDIA driver: libcuda.so.1 is not there",
            }
            assert client.get("/readyz").status_code == 200


def test_an_engine_that_tensorrt_refuses(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: Photographs, eager: Eager
) -> None:
    def refuse(folder: Path, chosen: ExecutionConfig, *arguments: Any) -> LoadedModel:
        if chosen.executor == "tensorrt":
            raise LoadError("model.onnx: wrong answers for the golden images")
        return LOAD(folder, chosen, *arguments)

    put(tmp_path, tiny_repository, H100)
    provide(monkeypatch, machines=lambda: [H100], command=lambda *_: pytest.fail("an engine was built"))
    monkeypatch.setattr(repository, "load", refuse)
    monkeypatch.setattr(cuda_driver, "devices", no_device)
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="tensorrt")) as client:
        assert engine(client) == {"state": "UNUSABLE", "reason": "model.onnx: wrong answers for the golden images"}
        check_served(client, photographs, eager)


def test_other_runtimes_look_at_no_engines(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, tiny_repository, OLDER)
    provide(monkeypatch, machines=lambda: pytest.fail("the machine was looked at"))
    with serve(Settings(repository=tiny_repository, cache=tmp_path, executor="simulated:0")) as client:
        assert engine(client) is None


def test_the_builder_is_the_command_that_a_user_would_give(tmp_path: Path) -> None:
    command = build_command(Path("tiny/1"), tmp_path / "cache", "float16")
    options = ["tiny/1", "--cache", str(tmp_path / "cache"), "--precision", "float16"]
    assert command == [sys.executable, "-m", "export", "engines", *options]
