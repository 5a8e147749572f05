"""Calibration: the range of each tensor over real images, by several methods.

Eight bits over the whole range waste most of their levels on a few outliers, so methods clip the range: `minmax` not at
all, `percentile` at a small share of the values, `entropy` at the smallest divergence of the rounded distribution from
the original one (Migacz, "8-bit inference with TensorRT", GTC 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from models.artifact.manifest import INPUT
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.progress import progress_bar
from models.runtime.onnxruntime import ort

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_BATCH = 8
_BINS = 2048
_PERCENTILE = 0.9999
_LEVELS = 128  # of one sign, as in the entropy method
_STEP = 16  # bins between two cuts of the entropy method

Float64Array = NDArray[np.float64]


class Range(NamedTuple):
    """Range of the values of a tensor, low <= 0 <= high."""

    low: float
    high: float


Ranges = Mapping[str, Range]


def calibrate(path: Path, tensors: Sequence[str], images: UInt8Array) -> dict[Method, dict[str, Range]]:
    """The range of each tensor by each method, from a run of a float32 graph.

    Args:
        path: ONNX file.
        tensors: names of float tensors in it.
        images: uint8 [n, H, W, C], n >= 1.
    """
    histograms = {name: ValueHistogram() for name in tensors}
    session = _session_with_outputs(path, tensors)
    with progress_bar("calibrating", total=len(images)) as progress:
        for first in range(0, len(images), _BATCH):
            values = session.run(list(tensors), {INPUT: images[first : first + _BATCH]})
            for name, value in zip(tensors, values, strict=True):
                histograms[name].add(value)
            progress.update(min(first + _BATCH, len(images)))
    return {method: {name: histogram.range(method) for name, histogram in histograms.items()} for method in METHODS}


class ValueHistogram:
    """Histogram of absolute values; the width of its bins doubles if a value lies beyond the last bin."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self._limit = 0.0
        self._counts: Float64Array = np.zeros(_BINS)

    def add(self, values: Float32Array) -> None:
        """Count the values of an array of any shape."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        magnitude = max(-self.low, self.high)
        if magnitude == 0.0:
            return
        if self._limit == 0.0:
            self._limit = magnitude
        while magnitude > self._limit:
            self._counts = np.concatenate([self._counts.reshape(-1, 2).sum(1), np.zeros(_BINS // 2)])
            self._limit *= 2
        bins = (np.abs(values).ravel() * np.float32(_BINS / self._limit)).astype(np.int32)
        self._counts += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)

    def range(self, method: Method) -> Range:
        """The range by a method; values beyond are clipped to it."""
        magnitude = max(-self.low, self.high)
        if method != "minmax" and self._counts.any():
            bins = _percentile_cut(self._counts) if method == "percentile" else _entropy_cut(self._counts)
            magnitude = min(magnitude, bins * self._limit / _BINS)
        return Range(max(self.low, -magnitude), min(self.high, magnitude))


def _percentile_cut(counts: Float64Array) -> int:
    # Without zeros, half of the values after a ReLU, which every range represents exactly.
    total = np.cumsum(counts[1:])
    return 2 + int(np.searchsorted(total, _PERCENTILE * total[-1]))


def _entropy_cut(counts: Float64Array) -> int:
    """The number of bins with the smallest divergence of the rounded distribution from the original one."""
    counts = counts.copy()
    counts[0] = counts[1]  # without zeros, as above
    used = int(np.flatnonzero(counts)[-1]) + 1
    cuts = [*range(_LEVELS, used, _STEP), used] if used > _LEVELS else [used]
    return min(cuts, key=lambda cut: _divergence(counts, cut))


def _divergence(counts: Float64Array, cut: int) -> float:
    """Kullback-Leibler divergence of `cut` bins, with outliers in the last one, from the same in `_LEVELS` levels."""
    kept = counts[:cut]
    reference = kept.copy()
    reference[-1] += counts[cut:].sum()
    starts = np.arange(_LEVELS) * cut // _LEVELS if cut > _LEVELS else np.arange(cut)
    level = np.repeat(np.arange(len(starts)), np.diff([*starts, cut]))
    occupied = kept > 0
    sums = np.bincount(level, kept, len(starts))
    sizes = np.bincount(level, occupied, len(starts))
    rounded = np.where(occupied, (sums / np.maximum(sizes, 1))[level], 0.0)
    if not rounded.any():
        return float("inf")
    p, q = reference / reference.sum(), rounded / rounded.sum()
    where = p > 0
    # A bin with outliers only has no mass after rounding; a small one keeps the divergence finite.
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-9))))


def _session_with_outputs(path: Path, tensors: Iterable[str]) -> ort.InferenceSession:
    model = onnx.load(path)
    present = {output.name for output in model.graph.output}
    for name in tensors:
        if name not in present:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
