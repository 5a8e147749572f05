"""The step `engine` of `benchmarks/gpu.sh`: ceilings, CUDA engines, cuDNN and ONNX Runtime in one run.

It measures the last version. Engines that are missing are built first, if their compiler is installed; that takes
minutes, which do not count.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from benchmarks.gpu import engine
from benchmarks.gpu.engine import Measured
from benchmarks.gpu.executors import Kind, in_own_process
from benchmarks.gpu.report import GpuReport, NotDone, describe
from models.artifact import manifest
from models.runtime import cuda_driver
from models.runtime.cuda_engine import cache as engine_files
from models.runtime.cuda_engine.plan import Precision
from models.runtime.engine_cache import default_folder
from service import executors
from service.executors.base import ExecutorError

BATCHES = "1,8,64,128,256"
LIMIT_SECONDS = 240
_PROCESS_SECONDS = 60.0
"""Time limit of each of the measurements, which take a few seconds."""
PRECISIONS: tuple[Precision, ...] = ("float16", "int8")
MLPERF = {"H100": 88_714, "H200": 94_620}
"""Images per second of a ResNet-50 in int8, MLPerf Inference, Offline, one GPU."""
_BASELINE = "cuDNN baseline"

A = TypeVar("A")
T = TypeVar("T")


def measure_engine(versions: Sequence[Path], out: Path, report: GpuReport) -> Iterator[str]:
    """Measure everything that this machine can; the rest is listed in the report."""
    version = versions[-1]
    yield from _build(version, report)
    started = time.monotonic()
    bandwidth = _try("ceilings", report, engine.copy_ceiling, None)
    if bandwidth is None:
        raise NotDone("the GPU cannot be used")
    peaks = _try("products of matrices", report, _matrix_ceilings, None) or {}
    results = list(_measure_all(version, report))
    if not any(result.executor == "cuda" for result in results):
        raise NotDone("no CUDA engine could be measured")
    seconds = time.monotonic() - started
    _write(out, bandwidth, peaks, results)
    yield f"{version.parent.name}, measured in {seconds:.0f} s (limit {LIMIT_SECONDS})."
    yield ""
    yield from _ceiling_lines(bandwidth, peaks)
    yield from _rate_lines(results)
    yield from _comparison_lines(results, report)
    for result in results:
        if result.layers:
            yield from _layer_lines(result, bandwidth, peaks.get(result.precision))


def _build(version: Path, report: GpuReport) -> Iterator[str]:
    """Build the engines that are missing."""
    described, capability = manifest.read(version), cuda_driver.device(0).compute_capability
    missing = []
    for precision in PRECISIONS:
        try:
            artifact = executors.find("cuda").select_artifact(described, precision)
        except ExecutorError as error:
            report.missing.append(str(error))
            continue
        if not engine_files.engine_file(default_folder(), artifact.sha256, precision, capability).exists():
            missing.append(precision)
    for precision in missing:
        command = [sys.executable, "-m", "export", "engines", str(version), "--runtime", "cuda"]
        command += ["--precision", precision, "--batches", BATCHES]
        if find_spec("triton") is None:
            report.missing.append(f"cuda {precision}: no engine, and no compiler for one: {' '.join(command[1:])}")
            continue
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        text = (done.stdout + done.stderr).strip().splitlines()
        yield f"    {text[-1] if text else 'no output'} ({time.monotonic() - started:.0f} s)"


def _measure_all(version: Path, report: GpuReport) -> Iterator[Measured]:
    """The baseline comes first: an engine that hangs until its time limit does not take its time."""
    if result := _try(_BASELINE, report, engine.measure_baseline, version):
        yield result
    engines = [Kind(version, "cuda", precision) for precision in PRECISIONS]
    others = [Kind(version, "onnxruntime-cuda", precision) for precision in ("float16", "float32")]
    for kind in (*engines, *others):
        if result := _try(str(kind), report, engine.measure_kind, kind):
            yield result


def _matrix_ceilings(_: None) -> dict[str, float]:
    from benchmarks.cudnn_baseline import ceilings

    return ceilings.matrix_ceilings()


def _try(what: str, report: GpuReport, function: Callable[[A], T], argument: A) -> T | None:
    """Call a function in a process of its own; None if it fails, with the reason in the report."""
    try:
        return in_own_process(function, argument, _PROCESS_SECONDS)
    except Exception as error:  # native runtimes raise errors of any class; the next one may work
        report.missing.append(f"{what}: {describe(error)}")
        return None


def _ceiling_lines(bandwidth: float, peaks: dict[str, float]) -> Iterator[str]:
    yield f"- copy on the device, read and written: {bandwidth / 1e12:.2f} TB/s"
    for precision, peak in peaks.items():
        yield f"- products of matrices, {precision}: {peak / 1e12:.0f} TOP/s"
    yield ""


def _rate_lines(results: Sequence[Measured]) -> Iterator[str]:
    yield "| executor | precision | batch | streams | images/s, device to device |"
    yield "|---|---|---|---|---|"
    for result in results:
        for rate in result.rates:
            where = f"{rate.executor} | {rate.precision} | {rate.batch} | {rate.streams}"
            yield f"| {where} | {rate.images_per_second:,.0f} |"
    yield ""


def _comparison_lines(results: Sequence[Measured], report: GpuReport) -> Iterator[str]:
    best = {(each.executor, each.precision): max(rate.images_per_second for rate in each.rates) for each in results}
    single = {(each.executor, each.precision): each.single_ms for each in results}
    baseline = best.get((_BASELINE, "float16"))
    published = next((rate for name, rate in MLPERF.items() if name in _gpu_name(report)), None)
    yield "| executor | precision | best images/s | of cuDNN's | of MLPerf's int8 | one image, host to host, ms |"
    yield "|---|---|---|---|---|---|"
    for (executor, precision), rate in best.items():
        yield (
            f"| {executor} | {precision} | {rate:,.0f} | {_ratio(rate, baseline)} | "
            f"{_ratio(rate, published if precision == 'int8' else None)} | {single[executor, precision]:.3f} |"
        )
    yield ""


def _layer_lines(result: Measured, bandwidth: float, peak: float | None) -> Iterator[str]:
    yield f"Layers in {result.precision}, batches of {result.layers_batch}, each alone and repeated:"
    yield ""
    yield "| layer | kind | kernels | time, µs | floor, µs | time / floor |"
    yield "|---|---|---|---|---|---|"
    for layer in result.layers:
        floor = layer.floor(bandwidth, peak)
        yield (
            f"| {layer.name} | {layer.kind} | {', '.join(layer.kernels)} | {layer.seconds * 1e6:.1f} | "
            f"{floor * 1e6:.1f} | {layer.seconds / floor:.2f} |"
        )
    total, floors = (
        sum(each.seconds for each in result.layers),
        sum(each.floor(bandwidth, peak) for each in result.layers),
    )
    yield f"| all | | | {total * 1e6:.1f} | {floors * 1e6:.1f} | {total / floors:.2f} |"
    yield ""


def _write(out: Path, bandwidth: float, peaks: dict[str, float], results: Sequence[Measured]) -> None:
    content = {
        "bytes_per_second": bandwidth,
        "operations_per_second": peaks,
        "results": [dataclasses.asdict(result) for result in results],
    }
    (out / "engine.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _gpu_name(report: GpuReport) -> str:
    return report.devices[0].name if report.devices else ""


def _ratio(rate: float, other: float | None) -> str:
    return "" if other is None else f"{rate / other:.2f}"
