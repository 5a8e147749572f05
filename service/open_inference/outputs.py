"""The outputs of an inference: raw bytes (little-endian, row-major) or values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from models.artifact.manifest import LAYER_OUTPUTS, OUTPUTS
from models.artifact.parity import Float32Array
from service.core.errors import BadRequest
from service.core.threads import run_python
from service.inference.top_k import top_k
from service.messages.inference import InferenceResult
from service.messages.model import ServedModel

DEFAULT_OUTPUT = "probabilities"
"""Output of a request that names none, and the only one in the metadata: clients written for classifiers refuse a model
with several outputs, and perf_analyzer requests all of them."""
_MAX_VALUES = 4096
"""Most classes that are written on the event loop."""
_NO_BYTES = memoryview(b"")


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output in a request."""

    name: str
    classification: int = 0
    """Number of classes, best first, to send in place of the values; 0 for the values."""
    binary: bool = True
    """Whether to write raw bytes."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output in a response."""

    name: str
    datatype: str
    shape: list[int]
    data: Float32Array | list[str] | None = None
    """Values, float32 [values] or strings; None if they are in `raw`."""
    raw: memoryview = _NO_BYTES

    @property
    def count(self) -> int:
        """Number of values in `data`."""
        return 0 if self.data is None else len(self.data)

    def values(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Some of the values in `data`."""
        part = () if self.data is None else self.data[start:stop]
        return part.tolist() if isinstance(part, np.ndarray) else list(part)


def check_outputs(outputs: Sequence[WantedOutput], binary: bool) -> Sequence[WantedOutput]:
    """The outputs to write: those in the request, or the default one.

    Args:
        outputs: the outputs in the request.
        binary: whether the default output is raw bytes.

    Raises:
        BadRequest: an output does not exist, is requested twice, or has no classes to send.
    """
    for output in outputs:
        if output.name not in OUTPUTS + LAYER_OUTPUTS:
            raise BadRequest(f"there is no output {output.name!r}; there are: {', '.join(OUTPUTS + LAYER_OUTPUTS)}")
        if output.classification and output.name not in ("logits", "probabilities"):
            raise BadRequest(f"{output.name} has no classes: request the classification of logits or probabilities")
    if len({output.name for output in outputs}) < len(outputs):
        raise BadRequest("an output is requested twice")
    return outputs or [WantedOutput(DEFAULT_OUTPUT, binary=binary)]


def check_model_has(names: frozenset[str], model: ServedModel) -> None:
    """Check that a model has outputs.

    Raises:
        BadRequest: it lacks one.
    """
    if absent := names - set(model.outputs):
        raise BadRequest(
            f"{model.name} version {model.version} has no {', '.join(sorted(absent))}, only "
            f"{', '.join(model.outputs)}: it was imported, joined or exported without that output"
        )


async def write_outputs(
    outputs: Sequence[WantedOutput], result: InferenceResult, labels: Sequence[str]
) -> list[Output]:
    """Write the outputs of a result, in a thread if there are many classes.

    Args:
        outputs: the outputs in the request.
        result: has their values.
        labels: names of the classes.
    """
    written = []
    for output in outputs:
        values = result.outputs[output.name]
        write = partial(_write, output, values, labels)
        classes = len(values) * min(output.classification, len(labels))
        written.append(await run_python(write) if classes > _MAX_VALUES else write())
    return written


def _write(requested: WantedOutput, values: Float32Array, labels: Sequence[str]) -> Output:
    """Write an output, float32 [N, ...], or its most probable classes."""
    if requested.classification:
        return _write_classes(requested, values, labels)
    shape = list(values.shape)
    if not requested.binary:
        return Output(requested.name, "FP32", shape, values.ravel())
    raw = np.ascontiguousarray(values, "<f4").reshape(-1).data.cast("B")
    return Output(requested.name, "FP32", shape, raw=raw)


def _write_classes(requested: WantedOutput, values: Float32Array, labels: Sequence[str]) -> Output:
    best = [
        [f"{prediction.probability:f}:{prediction.index}:{prediction.label}" for prediction in row]
        for row in top_k(values, labels, requested.classification)
    ]
    strings = [text for row in best for text in row]
    shape = [len(best), len(best[0])]
    if not requested.binary:
        return Output(requested.name, "BYTES", shape, strings)
    elements = b"".join(struct.pack("<I", len(text)) + text for text in (string.encode() for string in strings))
    return Output(requested.name, "BYTES", shape, raw=memoryview(elements))
