"""Searches the quantisation with the smallest loss on real images, in a bounded number of trials."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from export.quantization import qdq
from export.quantization.calibrate import Method, Range
from export.quantization.qdq import Scheme
from export.verify import OnnxRunner
from models.artifact import parity
from models.artifact.manifest import Quantization
from models.artifact.parity import MAX_LOGIT_ERROR, Float32Array
from models.imaging.preprocess import UInt8Array
from models.progress import progress_bar

MAX_LOSS = 0.002
"""Loss of top-1, as a share of images, above which layers are kept in float."""
_GROUPS = 32
_RANKING_IMAGES = 64


@dataclass(frozen=True)
class Selection:
    """Images to compare trials on."""

    images: UInt8Array
    """uint8 [n, H, W, C]."""
    logits: Float32Array
    """Logits of the eager model, float32 [n, classes]."""
    labels: NDArray[np.int64] | None
    """True classes, int64 [n]; None if they are not known."""

    def first(self, count: int) -> Selection:
        """The first `count` images."""
        return Selection(self.images[:count], self.logits[:count], None if self.labels is None else self.labels[:count])


@dataclass(frozen=True, order=True)
class Score:
    """Costs of a quantised model; lower is better."""

    loss: float
    """Share of images by which top-1 falls; 0 if the true classes are not known."""
    error: float
    """`Parity.logit_rms_error`."""

    @property
    def good(self) -> bool:
        """Whether the costs are within the limits."""
        return self.loss <= MAX_LOSS and self.error <= MAX_LOGIT_ERROR["int8"]


def search(
    path: Path, scheme: Scheme, ranges: Mapping[Method, Mapping[str, Range]], selection: Selection
) -> tuple[ModelProto, Quantization]:
    """The int8 model of a float32 graph with the lowest costs.

    Calibration methods are compared first. If the best one loses more than `MAX_LOSS` of top-1, layers return to float,
    beginning with those whose return alone helps most: at most a quarter, in steps of 1, 2, 4, ... groups of
    neighbours. This takes at most 3 + 32 + 4 trials for any depth.

    Args:
        path: ONNX file of `formats.onnx`.
        scheme: the scheme.
        ranges: ranges of `calibrate`.
        selection: images to compare trials on; they should not be the images whose accuracy is reported.
    """
    trials = _Trials(onnx.load(path), scheme, ranges, selection)
    method = min(ranges, key=lambda method: trials.score(method, frozenset()))
    kept: frozenset[str] = frozenset()
    if not trials.score(method, kept).good:
        kept = trials.restore(method)
    score = trials.score(method, kept)
    report = Quantization(
        calibration=method,
        float_layers=tuple(name for name in qdq.layers(trials.model) if name in kept),
        selection_images=len(selection.images),
        selection_loss=None if selection.labels is None else score.loss,
        trials=trials.count,
    )
    return trials.quantize(method, kept), report


class _Trials:
    """Quantises and measures, and stores the results."""

    def __init__(
        self,
        model: ModelProto,
        scheme: Scheme,
        ranges: Mapping[Method, Mapping[str, Range]],
        selection: Selection,
    ) -> None:
        self.model = model
        self._scheme = scheme
        self._ranges = ranges
        self._selection = selection
        self._known: dict[tuple[Method, Set[str]], Score] = {}
        self.count = 0

    def quantize(self, method: Method, kept: Set[str]) -> ModelProto:
        return qdq.quantize(self.model, self._ranges[method], self._scheme, kept)

    def score(self, method: Method, kept: frozenset[str]) -> Score:
        key = (method, kept)
        if key not in self._known:
            self._known[key] = self._measure(method, kept, self._selection)
        return self._known[key]

    def restore(self, method: Method) -> frozenset[str]:
        """The layers to keep in float: the smallest set within the limits, or the set with the lowest costs."""
        layers = qdq.layers(self.model)
        groups = [frozenset(group) for group in np.array_split(layers, min(len(layers), _GROUPS))]
        sample = self._selection.first(_RANKING_IMAGES)
        errors = {}
        with progress_bar("ranking layers", total=len(groups)) as progress:
            for group in groups:
                errors[group] = self._measure(method, group, sample).error
                progress.update(len(errors))
        ranked = sorted(groups, key=lambda group: errors[group])
        tried = []
        count = 1
        while count <= max(1, len(groups) // 4):
            tried.append(frozenset().union(*ranked[:count]))
            if self.score(method, tried[-1]).good:
                return tried[-1]
            count *= 2
        return min(tried, key=lambda kept: self.score(method, kept))

    def _measure(self, method: Method, kept: Set[str], selection: Selection) -> Score:
        self.count += 1
        with TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            path.write_bytes(self.quantize(method, kept).SerializeToString())
            logits = OnnxRunner(path).logits(selection.images)
        return Score(_loss(logits, selection), parity.compare(logits, selection.logits).logit_rms_error)


def _loss(logits: Float32Array, selection: Selection) -> float:
    if selection.labels is None:
        return 0.0
    before = (selection.logits.argmax(1) == selection.labels).mean()
    return float(before - (logits.argmax(1) == selection.labels).mean())
