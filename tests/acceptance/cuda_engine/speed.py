"""Line 3: speed on a GPU of the H100 class; without one, the measuring script on a fake GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.engine_step import MLPERF
from models.runtime import cuda_driver
from tests.acceptance.suites import pytest_counts
from tests.support.gpu import why_not

ROOT = Path(__file__).parents[3]
AIMS = {"float16 / cuDNN": 1.35, "int8 / cuDNN": 2.2, "int8 / MLPerf": 0.70}
NEARLY = 0.6
"""Share of an aim that is enough if the table of layers is there."""
LIMIT_SECONDS = 240


def check() -> tuple[bool, str]:
    """Measure, or run the script to its end on a fake GPU."""
    if (reason := why_not()) is None:
        return _on_a_gpu()
    script = "tests/gpu/test_gpu_report.py::test_step_engine_runs_to_its_end"
    passed, counts = pytest_counts(script, "tests/integration/test_cuda_launches.py")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(ROOT / "benchmarks" / "gpu.sh"), "--only", "engine", folder]
        done = subprocess.run(
            command, capture_output=True, text=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
        )
        report = (Path(folder) / "report.md").read_text()
    told = f"- The CUDA engine: {reason}" in report
    return passed and done.returncode == 0 and told, (
        f"not measured: {reason}; the step on a fake GPU, and compiled engines on a fake driver: {counts}; "
        f"gpu.sh --only engine ended with {done.returncode} and said so: {told}"
    )


def _on_a_gpu() -> tuple[bool, str]:
    name = cuda_driver.device(0).name
    published = next((rate for card, rate in MLPERF.items() if card in name), None)
    out = ROOT / "build" / "gpu"
    started = time.monotonic()
    subprocess.run([str(ROOT / "benchmarks" / "gpu.sh"), "--only", "engine", str(out)], check=True)
    seconds = time.monotonic() - started
    results = json.loads((out / "engine.json").read_text())["results"]
    half, small, base = (_best(results, *kind) for kind in (("cuda", "float16"), ("cuda", "int8"), _BASELINE))
    found = {"float16 / cuDNN": half / base, "int8 / cuDNN": small / base}
    if published is not None:
        found["int8 / MLPerf"] = small / published
    single = _single(results, "cuda", "int8") / _single(results, *_BASELINE)
    holds = all(value >= NEARLY * AIMS[name] for name, value in found.items()) and single <= 0.5 / NEARLY
    figures = ", ".join(f"{name} {value:.2f} (aim {AIMS[name]})" for name, value in found.items())
    return holds, f"{name}: {figures}, one image {single:.2f} of cuDNN's time (aim 0.5), {seconds:.0f} s in all"


_BASELINE = ("cuDNN baseline", "float16")


def _of(results: list[dict[str, Any]], executor: str, precision: str) -> dict[str, Any]:
    return next(each for each in results if (each["executor"], each["precision"]) == (executor, precision))


def _best(results: list[dict[str, Any]], executor: str, precision: str) -> float:
    return max(float(rate["images_per_second"]) for rate in _of(results, executor, precision)["rates"])


def _single(results: list[dict[str, Any]], executor: str, precision: str) -> float:
    return float(_of(results, executor, precision)["single_ms"])
