"""What `benchmarks/gpu.sh` runs: every step as far as this machine goes, then one report that also says how far."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.http_load import NotServed, serve
from benchmarks.timing import interleave
from models import driver, golden, manifest
from models.driver import Device, NoDevice
from models.engine_cache import default_folder
from models.manifest import Precision
from service import executors
from service.executors import Executor, ExecutorError, compute
from service.repository import LoadError, check_golden
from service.settings import shipped_repository

ROOT = Path(__file__).parents[1]
SHIPPED = shipped_repository() / "fashion-mnist-resnet20" / "1"
PACKAGES = ("cuda-bindings", "nvidia-nvimgcodec-cu13", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt",
            "tensorrt-rtx-cu13", "torch")  # fmt: skip

_BATCHES = (1, 8, 32, 64)
_ANSWER = frozenset({"probabilities"})
_EXPORT = """
import sys
from pathlib import Path
from export.build import build
from tests.networks import make_checkpoint
folder = Path(sys.argv[1])
make_checkpoint("resnet50", size=224, classes=1000).save(folder / "resnet50.safetensors")
build(folder / "resnet50.safetensors", folder / "repository", "resnet50-random", float16=True, int8=True,
      allow_unfused=True)
"""


class NotDone(Exception):
    """A step cannot be done here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One executor in one precision at one batch size; images per second."""

    model: str
    executor: str
    precision: Precision
    batch: int
    latency_ms: float
    """Of one batch alone."""
    one_at_a_time: float
    all_lanes: float
    """With as many batches at the same time as it has lanes."""


@dataclass
class Report:
    """What was found, and what was not done and why."""

    devices: list[Device]
    sections: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def text(self) -> str:
        name = ", ".join(device.name for device in self.devices) or "no GPU"
        lines = [f"# GPU report: {name}", "", machine_text(), "", *self.sections, "## Not done", ""]
        return (
            "\n".join(
                [*lines, *(f"- {line}" for line in dict.fromkeys(self.missing) or ["nothing: every step was done"])]
            )
            + "\n"
        )


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    reason = None
    try:
        devices = driver.devices()
    except NoDevice as error:
        devices, reason = [], str(error)
    report = Report(devices)
    versions = [Path(text).resolve() for text in sys.argv[2:]] or [SHIPPED]
    steps: list[tuple[str, Callable[[], str]]] = [
        ("Tests that need a GPU", run_tests),
        ("A ResNet-50 to measure", lambda: export_resnet50(out, versions)),
        ("TensorRT engines", lambda: build_engines(versions)),
        ("Golden images", lambda: check_all(versions, report)),
        ("Engines", lambda: measure_all(versions, out, report)),
        ("The service over HTTP", lambda: serve_all(versions, report)),
    ]
    for title, step in steps:
        print(f"{title} ...", file=sys.stderr, flush=True)
        try:
            if reason is not None:
                raise NotDone(reason)
            report.sections += [f"## {title}", "", step(), ""]
        except Exception as error:  # the next steps may well work
            kind = "" if isinstance(error, NotDone) else f"{type(error).__name__}: "
            report.missing.append(f"{title}: {kind}{error}")
    (out / "report.md").write_text(report.text(), encoding="utf-8")
    print(f"{out / 'report.md'}: {len(report.sections) // 4} of {len(steps)} steps", file=sys.stderr)


def machine_text() -> str:
    """Processor, driver and packages, one line each."""
    lines = [f"Python {platform.python_version()} on {platform.platform()}, {len(os.sched_getaffinity(0))} processors"]
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        lines.append(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        lines.append("nvidia-smi is not there")
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    return "\n".join(f"    {line}" for line in lines)


def run_tests() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", "tests"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    tail = (done.stdout or done.stderr).strip().splitlines()[-20:]
    if done.returncode not in (0, 1):
        raise NotDone(f"pytest ended with {done.returncode}: {tail[-1] if tail else 'and said nothing'}")
    return "\n".join(f"    {line}" for line in tail)


def export_resnet50(out: Path, versions: list[Path]) -> str:
    if versions != [SHIPPED]:
        raise NotDone("the versions to measure were given")
    folder = out / "resnet50"
    if not (folder / "repository").exists():
        folder.mkdir(exist_ok=True)
        _run(sys.executable, "-c", _EXPORT, str(folder))
    (version,) = (folder / "repository" / "resnet50-random").glob("[0-9]*")
    versions.append(version)
    return "ResNet-50 with random weights, whose normalisation has the statistics of photographs."


def build_engines(versions: list[Path]) -> str:
    lines = [_run(sys.executable, "-m", "export", "engines", str(version)) for version in versions]
    return "\n".join(f"    {line}" for line in "\n".join(lines).splitlines())


def load_executors(version: Path, report: Report) -> Iterator[tuple[str, Precision, Executor]]:
    """Every executor and precision that computes on a GPU and can be had here."""
    described = manifest.read(version)
    for name in executors.names():
        try:
            runtime = executors.find(name)
        except ExecutorError as error:
            report.missing.append(f"{name}: {error}")
            continue
        if "gpu" not in runtime.devices:
            continue
        for precision in runtime.artifacts:
            try:
                here = dataclasses.replace(runtime, argument=runtime.devices["gpu"])
                (executor,) = here.load(version, described, precision, 1, default_folder())
            except ExecutorError as error:
                report.missing.append(f"{described.name}, {name} {precision}: {error}")
                continue
            try:
                yield name, precision, executor
            finally:
                executor.close()


def check_all(versions: list[Path], report: Report) -> str:
    lines = []
    for version in versions:
        images, logits = golden.read(version / manifest.GOLDEN_FILE)
        for name, precision, executor in load_executors(version, report):
            try:
                check_golden(executor, images, logits, version.parent.name, precision)
                lines.append(f"- {version.parent.name}, {name} {precision}: within its bound on every bucket and lane")
            except LoadError as error:
                lines.append(f"- {version.parent.name}, {name} {precision}: **{error}**")
    return _some(lines)


def measure_all(versions: list[Path], out: Path, report: Report) -> str:
    rows = []
    for version in versions:
        images, _ = golden.read(version / manifest.GOLDEN_FILE)
        for name, precision, executor in load_executors(version, report):
            for batch in (size for size in _BATCHES if size <= max(executor.buckets, default=size)):
                rows.append(measure(executor, images[np.arange(batch) % len(images)], version, name, precision))
    if not rows:
        raise NotDone("no executor could be loaded")
    (out / "engines.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    text = ["| model | executor | precision | batch | ms a batch | images/s, one at a time | images/s, all lanes |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    text += [
        f"| {row.model} | {row.executor} | {row.precision} | {row.batch} | {row.latency_ms:.3f} "
        f"| {row.one_at_a_time:,.0f} | {row.all_lanes:,.0f} |"
        for row in rows
    ]
    try:
        from benchmarks import plots

        plots.gpu(rows, out / "engines")
        text += ["", "![Throughput over batch size](engines.png)"]
    except ImportError as error:
        report.missing.append(f"Plots: {error}")
    return "\n".join(text)


def measure(executor: Executor, pixels: Any, version: Path, name: str, precision: Precision) -> Row:
    run = partial(compute, executor, pixels, _ANSWER)
    batch = len(pixels)
    seconds = float(np.median(interleave({"one": run}, f"{name} {precision} {batch}", rounds=5)["one"]))
    count = max(20, int(1 / seconds))
    with ThreadPoolExecutor(executor.lanes) as pool:
        started = time.perf_counter()
        for done in [pool.submit(run) for _ in range(count)]:
            done.result()
        together = (time.perf_counter() - started) / count
    return Row(version.parent.name, name, precision, batch, seconds * 1000, batch / seconds, batch / together)


def serve_all(versions: list[Path], report: Report) -> str:
    photographs = [path.read_bytes() for path in sorted((ROOT / "export" / "photographs").glob("*.jpg"))]
    lines = ["| model | executor | precision | clients | requests/s | p50, ms | p99, ms | failed |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    found = [(v, name, precision) for v in versions for name, precision, _ in load_executors(v, report)]
    for version, name, precision in found:
        try:
            for clients, seen in serve(version, name, precision, photographs):
                lines.append(
                    f"| {version.parent.name} | {name} | {precision} | {clients} | {seen.requests_per_second:,.0f} "
                    f"| {seen.p50_ms:.1f} | {seen.p99_ms:.1f} | {seen.failed} |"
                )
        except NotServed as error:
            report.missing.append(f"{version.parent.name}, {name} {precision} over HTTP: {error}")
    return _some(lines[2:]) and "\n".join(lines)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotDone(said[-1] if said else f"{command[1]} ended with {done.returncode}")
    return (done.stdout + done.stderr).strip()


def _some(lines: list[str]) -> str:
    if not lines:
        raise NotDone("no executor could be loaded")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
