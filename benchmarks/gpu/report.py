"""The report of `benchmarks/gpu.sh`: sections, tables, the machine, and the steps that were not done."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from benchmarks.gpu.executors import GpuRow
from benchmarks.serve.server import ServerFailed
from models.runtime.cuda_driver import Device
from service.executors.base import ExecutorError

PACKAGES = (
    "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg", "onnx",
    "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "torch",
)  # fmt: skip


class NotDone(Exception):
    """A step cannot be done on this machine; the message has the reason."""


@dataclass
class GpuReport:
    """The results, and the steps that were not done with their reasons."""

    devices: list[Device]
    rows: list[GpuRow] = field(default_factory=list)
    """Results of the executors."""
    sections: dict[str, list[str]] = field(default_factory=dict)
    """Lines by title."""
    missing: list[str] = field(default_factory=list)

    def add(self, title: str, line: str) -> None:
        self.sections.setdefault(title, []).append(line)

    def text(self) -> str:
        name = ", ".join(device.name for device in self.devices) or "no GPU"
        lines = [f"# GPU report: {name}", "", machine_text(), ""]
        for title, section in self.sections.items():
            lines += [f"## {title}", "", *section, ""]
        lines += ["## Not done", ""]
        lines += [f"- {line}" for line in dict.fromkeys(self.missing) or ["nothing: every step was done"]]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        (folder / "report.md").write_text(self.text(), encoding="utf-8")


def machine_text() -> str:
    """Python, CPUs, driver and packages, one line each."""
    lines = [f"Python {platform.python_version()} on {platform.platform()}, {len(os.sched_getaffinity(0))} CPUs"]
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        lines.append(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        lines.append("nvidia-smi is not installed")
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    return "\n".join(f"    {line}" for line in lines)


def tabulate(rows: Sequence[GpuRow], out: Path, report: GpuReport) -> list[str]:
    """The results as lines of a table; also writes them as JSON and as a picture."""
    (out / "engines.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    text = ["| model | executor | precision | batch | ms per batch | images/s, one stream | images/s, all streams |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    text += [
        f"| {row.model} | {row.executor} | {row.precision} | {row.batch} | {row.latency_ms:.3f} "
        f"| {row.one_stream:,.0f} | {row.all_streams:,.0f} |"
        for row in rows
    ]
    try:
        from benchmarks import plots

        plots.gpu(rows, out / "engines")
        text += ["", "![Throughput over batch size](engines.png)"]
    except ImportError as error:
        report.missing.append(f"Plots: {error}")
    return text


def describe(error: Exception) -> str:
    """The message in one line; with the class for errors of other packages."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (NotDone, ServerFailed, ExecutorError)) else f"{type(error).__name__}: {text}"
