"""The gain of additions that are computed inside convolutions: the same model with and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from benchmarks.timing import interleave
from benchmarks.unfuse import unfuse
from export import fusion
from export.formats import onnx as onnx_format
from models.artifact import golden, manifest
from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from models.runtime.openvino_core import core

Runner = Callable[[UInt8Array], object]


@dataclass(frozen=True)
class FusionRow:
    """One runtime in one precision at one batch size."""

    runtime: str
    precision: Precision
    batch: int
    residual_adds: int
    fused: int
    """Additions inside convolutions in the exported model."""
    fused_without: int
    """Additions inside convolutions in the model for comparison."""
    images_per_second: float
    images_per_second_without: float
    gain: float
    """Time without fusion over time with fusion, minus one: the median over the rounds."""


def measure(version: Path, batches: tuple[int, ...], threads: int) -> Iterator[FusionRow]:
    """Time each runtime on a version with fusion and without, in turn."""
    images, _ = golden.read(version / manifest.GOLDEN_FILE)
    with TemporaryDirectory() as folder:
        for artifact in manifest.read(version).artifacts:
            kind = (artifact.format, artifact.precision)
            path, without = version / artifact.file, Path(folder) / artifact.file
            onnx_format.save(unfuse(onnx.load(path)), without)
            for runtime, load in _LOADERS.items():
                if not fusion.RUNTIMES[runtime].fuses.get(kind):
                    continue
                reports = [fusion.reports(file, kind)[runtime] for file in (path, without)]
                runners = [load(file, threads) for file in (path, without)]
                for batch in batches:
                    pixels = images[np.arange(batch) % len(images)]
                    runs = {name: partial(run, pixels) for name, run in zip(("with", "without"), runners, strict=True)}
                    seconds = interleave(runs, f"{runtime}, {artifact.precision}, batch {batch}")
                    gains = np.asarray(seconds["without"]) / np.asarray(seconds["with"]) - 1
                    yield FusionRow(
                        runtime,
                        artifact.precision,
                        batch,
                        reports[0].residual_adds,
                        reports[0].fused,
                        reports[1].fused,
                        batch / float(np.median(seconds["with"])),
                        batch / float(np.median(seconds["without"])),
                        float(np.median(gains)),
                    )


def _onnxruntime(path: Path, threads: int) -> Runner:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {INPUT: images})


def _openvino(path: Path, threads: int) -> Runner:
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core().compile_model(path, "CPU", hints).create_infer_request()
    return lambda images: request.infer({INPUT: images}, share_inputs=True)


_LOADERS: dict[str, Callable[[Path, int], Runner]] = {"onnxruntime-cpu": _onnxruntime, "openvino": _openvino}
