"""Throughput of each executor with a model, in each precision that the model was exported in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import interleave
from models.artifact import golden, manifest, parity
from models.artifact.manifest import Manifest
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service import executors
from service.executors.base import Executor, ExecutorError, Source, compute

BASELINE = "onnxruntime-cpu float32"
_ANSWER = frozenset({"probabilities"})


@dataclass(frozen=True)
class EngineRow:
    """One executor in one precision at one batch size."""

    engine: str
    batch: int
    images_per_second: float
    """Median over the rounds."""
    best: float
    ratio: float
    """Images per second relative to `BASELINE` in the same run."""
    logit_rms_error: float
    """Error on the golden images, relative to the spread of their logits."""


def measure(version: Path, batches: tuple[int, ...], threads: int) -> Iterator[EngineRow]:
    """Time every engine that this machine has for a version in turn, one batch size after the other."""
    described = manifest.read(version)
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    engines = dict(_load(version, described, threads))
    errors = {name: _error(engine, images, logits) for name, engine in engines.items()}
    for batch in batches:
        pixels = images[np.arange(batch) % len(images)]
        runs = {name: partial(compute, engine, pixels, _ANSWER) for name, engine in engines.items()}
        seconds = interleave(runs, f"batch {batch}")
        base = np.median(seconds[BASELINE])
        for name, values in seconds.items():
            median = float(np.median(values))
            yield EngineRow(name, batch, batch / median, batch / min(values), float(base) / median, errors[name])


def _load(version: Path, described: Manifest, threads: int) -> Iterator[tuple[str, Executor]]:
    for name in executors.names():
        try:
            runtime = executors.find(name)
        except ExecutorError:
            continue
        for precision in runtime.artifacts if runtime.device == "cpu" else ():
            try:
                artifact = runtime.select_artifact(described, precision)
                source = Source(version, described, artifact, precision, threads)
                engine = runtime.make(source)
            except ExecutorError:
                continue
            if engine.computes:
                yield f"{name} {precision}", engine


def _error(engine: Executor, images: UInt8Array, logits: Float32Array) -> float:
    return parity.compare(compute(engine, images, frozenset({"logits"}))["logits"], logits).logit_rms_error
