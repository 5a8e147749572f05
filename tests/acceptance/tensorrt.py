"""TensorRT and Triton, line by line: `python -m tests.acceptance.tensorrt [LINE…]`.

Needs `tensorrt-rtx-cu13` and the `cpu`, `train` and `dev` extras, and for line 5 a C compiler; no GPU. Lines 3 and 4 of
the same list, import and tune, have scripts of their own; line 6 is the configuration for Triton.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import onnx
import tensorrt_rtx
import torch

from export.errors import BadProfile, EngineError, UnreadableModel, UnsupportedDevice, UnsupportedOperator
from export.formats import onnx as onnx_format
from export.formats import tensorrt
from export.formats.tensorrt import BuildOptions
from export.fusion.tensorrt import read_log
from export.graph import ServingGraph
from models.artifact import manifest
from models.runtime import engine_cache
from models.runtime.engine_plan import BatchRange, ComputeCapability, Plan, Platform
from tests.acceptance.report import run
from tests.acceptance.server import serve
from tests.support.networks import make_checkpoint
from tests.support.tensorrt_names import ABSENT
from tests.support.triton import TYPES, protobuf, read_config

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT / "models" / "pretrained"
NAME = "fashion-mnist-resnet20"
SHIPPED = PRETRAINED / "repository" / NAME / "1"

SIZES = {"resnet20": 32, "resnet18": 224, "resnet50": 224}
ADDS = {"resnet20": 9, "resnet18": 8, "resnet50": 16}
L4 = ComputeCapability(8, 9)


def line_1() -> tuple[bool, str]:
    """Engines on a CPU, and the errors of what cannot become one."""
    wrong = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for arch, size in SIZES.items():
            for dtype in (torch.float32, torch.float16):
                _write(arch, size, dtype, path)
                started = time.monotonic()
                engine = tensorrt.build(tensorrt_rtx, path, compute_capability=L4)
                seconds = time.monotonic() - started
                report = read_log(engine.layers, path)
                what = f"{arch} {str(dtype).removeprefix('torch.')}"
                print(
                    f"  {what}: {len(engine.content) / 1e6:.1f} MB in {seconds:.1f} s, "
                    f"{report.fused} of {report.residual_adds} additions fused",
                    flush=True,
                )
                if (report.residual_adds, report.fused) != (ADDS[arch], ADDS[arch]):
                    wrong.append(what)
        for title, kind, build in _impossible(Path(folder)):
            try:
                build()
                wrong.append(f"{title}: no error")
            except EngineError as error:
                print(f"  {title}: {type(error).__name__}: {error}", flush=True)
                if type(error) is not kind or "\n" in str(error):
                    wrong.append(title)
    return (
        not wrong,
        f"{2 * len(SIZES)} engines by TensorRT for RTX {tensorrt_rtx.__version__}; wrong: {wrong or 'none'}",
    )


def _write(arch: str, size: int, dtype: torch.dtype, path: Path) -> None:
    checkpoint = make_checkpoint(arch, size=size, classes=1000 if size == 224 else 10)
    graph = ServingGraph(checkpoint.model(), checkpoint.preprocess, dtype=dtype)
    onnx_format.write(graph, checkpoint.preprocess, path)


def _impossible(folder: Path) -> Iterator[tuple[str, type[EngineError], Callable[[], object]]]:
    good = SHIPPED / "model.onnx"

    def build(path: Path, *options: BuildOptions, **more: Any) -> Callable[[], object]:
        return lambda: tensorrt.build(tensorrt_rtx, path, *options, **more)

    for sizes in ((8, 4, 2), (1, 8, 4)):
        profile = BatchRange(min=sizes[0], opt=sizes[1], max=sizes[2])
        yield f"a profile of {sizes}", BadProfile, build(good, BuildOptions((profile,)))
    for title, content in (("garbage", b"garbage" * 100), ("half a file", good.read_bytes()[:100_000]), ("empty", b"")):
        path = folder / f"{title}.onnx"
        path.write_bytes(content)
        yield title, UnreadableModel, build(path)
    model = onnx.load(good)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
    onnx_format.save(model, folder / "operator.onnx")
    yield "an unknown operator", UnsupportedOperator, build(folder / "operator.onnx")
    yield "unsigned zero-points", UnsupportedOperator, build(SHIPPED / "model.int8-ort.onnx")
    for capability in (ComputeCapability(9, 0), ComputeCapability(7, 5), ComputeCapability(6, 1)):
        yield f"compute capability {capability}", UnsupportedDevice, build(good, compute_capability=capability)


def line_2() -> tuple[bool, str]:
    """The tests of the builder on this checkout, then with one name at a time that a version lacks."""
    tests = "strongly_typed or compatible or inspector or every_name"
    wrong = []
    with TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        source = Path(folder) / "export" / "formats" / "tensorrt.py"
        original = source.read_text()
        for name, number, there, instead in [("nothing", "", "", ""), *ABSENT]:
            source.write_text(original.replace(there, instead, 1) if there else original)
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "tests/gpu/test_tensorrt.py",
                "-k",
                tests,
            ]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment(folder))
            failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            noticed = [line for line in failed if f"[{number}" in line]
            print(f"  with {name} added: {len(noticed)} tests on {number or 'any version'} fail", flush=True)
            if done.returncode != (1 if there else 0) or bool(there) != bool(noticed):
                wrong.append(name)
    return not wrong, f"{len(ABSENT)} names that one version lacks, each noticed; wrong: {wrong or 'none'}"


def _environment(path: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": path}


def line_5() -> tuple[bool, str]:
    """The real service with engines that do not fit: without a driver, then with one that knows a GPU."""
    version = tensorrt_rtx.__version__
    here = Platform("tensorrt_rtx", version, L4, "NVIDIA L4")
    cases = {
        "stale": Platform("tensorrt_rtx", "1.2.0.54", L4, "NVIDIA L4"),
        "foreign": Platform("tensorrt_rtx", version, ComputeCapability(12, 0), "NVIDIA GeForce RTX 5090"),
        "of full TensorRT": Platform("tensorrt", "10.16.1.11", ComputeCapability(9, 0), "NVIDIA H100"),
    }
    wrong = []
    for title, built_for in cases.items():
        for driver in (False, True):
            with TemporaryDirectory() as cache, _driver() if driver else contextlib.nullcontext():
                _put(Path(cache), built_for)
                log = io.StringIO()
                with contextlib.redirect_stderr(log), serve("--cache", cache) as server:
                    first = _engine(server.url)
                    good = _answers(server.url)
                    last = _settled(server.url) if driver else first
                    good = good and _answers(server.url)
                print(f"  {title}, {'a GPU' if driver else 'no driver'}: {first} -> {last['state']}", flush=True)
                reason = first["reason"] or ""
                good = good and f"built for {built_for}" in reason and reason in log.getvalue()
                good = good and (f"this machine has {here}" if driver else "no NVIDIA driver") in reason
                good = good and last["state"] == ("READY" if driver else "UNUSABLE")
                good = good and (not driver or _fits(Path(cache), here))
                if not good:
                    wrong.append(f"{title}, {driver=}")
    return not wrong, f"{len(cases)} engines that do not fit, each without and with a GPU; wrong: {wrong or 'none'}"


def _put(cache: Path, machine: Platform) -> None:
    plan = Plan.of(b"a plan", _artifact(), machine, (BatchRange(min=1, opt=1, max=8),))
    engine_cache.write(cache, plan, b"a plan")


def _artifact() -> manifest.Artifact:
    return manifest.read(SHIPPED).artifacts[0]


def _fits(cache: Path, machine: Platform) -> bool:
    """Whether a real engine was built: TensorRT for RTX does so without the GPU that the driver pretends to have."""
    plan, content = engine_cache.find(cache, _artifact().sha256, "float32", machine)
    return plan.fusion is not None and plan.fusion.fused == ADDS["resnet20"] and len(content) > 1_000_000


_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA L4", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return 0; }
int cuGetErrorString(int status, const char **text) { *text = "unknown error"; return 0; }
"""


@contextmanager
def _driver() -> Iterator[None]:
    """Processes that are begun find a driver with a GPU, which can tell of it and nothing else."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "driver.c").write_text(_DRIVER)
        library = Path(folder) / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, Path(folder) / "driver.c"], check=True)
        os.environ["LD_LIBRARY_PATH"] = folder
        try:
            yield
        finally:
            del os.environ["LD_LIBRARY_PATH"]


def _engine(url: str) -> dict[str, str]:
    told: dict[str, str] = httpx.get(f"{url}/v1/models/{NAME}").json()["engine"]
    return told


def _settled(url: str) -> dict[str, str]:
    end = time.monotonic() + 120
    while (told := _engine(url))["state"] == "BUILDING" and time.monotonic() < end:
        time.sleep(0.1)
    return told


def _answers(url: str) -> bool:
    image = (PRETRAINED / "examples" / "trouser.png").read_bytes()
    answer = httpx.post(f"{url}/v1/classify", content=image, headers={"Content-Type": "image/png"})
    best = answer.json()["results"][0]["predictions"][0]["label"]
    return answer.status_code == 200 and best == "Trouser" and httpx.get(f"{url}/readyz").is_success


def line_6() -> tuple[bool, str]:
    """`--triton` on a real build, read by tritonclient's protobuf and compared with the ONNX file."""
    with TemporaryDirectory() as folder:
        checkpoint = PRETRAINED / f"{NAME}.safetensors"
        command = ["build", str(checkpoint), "--repository", folder, "--name", NAME, "--triton"]
        subprocess.run([sys.executable, "-m", "export", *command], check=True, capture_output=True)
        config = read_config(Path(folder) / NAME / "config.pbtxt")
        graph = onnx.load(Path(folder) / NAME / "1" / config.default_model_filename).graph
    told = [
        (tensor.name, protobuf().DataType.Name(tensor.data_type), list(tensor.dims))
        for tensor in (*config.input, *config.output)
    ]
    there = [
        (
            value.name,
            TYPES[value.type.tensor_type.elem_type],
            [d.dim_value for d in value.type.tensor_type.shape.dim[1:]],
        )
        for value in (*graph.input, *graph.output)
    ]
    batched = all(v.type.tensor_type.shape.dim[0].dim_param for v in (*graph.input, *graph.output))
    holds = told == there and batched and config.max_batch_size > 1 and config.HasField("dynamic_batching")
    return holds, f"{len(told)} tensors agree, batches of up to {config.max_batch_size}, by tritonclient " + (
        installed_version("tritonclient")
    )


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 5: line_5, 6: line_6})
