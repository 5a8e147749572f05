"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import openvino

from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.openvino_core import core, read
from service.executors.base import ExecutorError, Float32Array, HostExecutor, Source

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "bfloat16": ("onnx", "float32"),
    "int8": ("onnx", "int8"),
}
DEVICES: Mapping[str, str] = {"cpu": ""}

# What is not computed with integers: "float32" would otherwise be bfloat16 on processors that have it. Beside the
# rounding to eight bits that of the few float layers in an int8 graph is nothing, and it is a few per cent faster.
_FLOATS: Mapping[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}

_HEAD = frozenset({"logits", "probabilities"})

_MOST_SIZES = 8
_MOST_BYTES = 16 * 1024 * 1024
"""Of weights in the graphs of fixed size together: each has them rearranged for itself, and a large network gains
nothing."""


class Executor(HostExecutor):
    """Runs a portable graph on `threads` processors."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        if source.argument:
            raise ExecutorError(f"openvino takes no argument, not {source.argument!r}")
        precision = source.precision
        has_bfloat16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not has_bfloat16:
            raise ExecutorError("this processor does not compute in bfloat16: choose float32 or int8")
        self._options = {
            "INFERENCE_PRECISION_HINT": _FLOATS[precision] if has_bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": source.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Executors of one thread each would all be bound to the same processor.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._bytes = source.path.stat().st_size
            self._model = read(source.path)
            self._any_size = self._compile(_HEAD)
            self._fixed = {1: self._compile_fixed(1)}
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ExecutorError(f"{source.path.name}: OpenVINO cannot load it: {reason}") from error
        self._whole: openvino.InferRequest | None = None

    def prepare(self, max_batch: int) -> None:
        # A graph of any size plans anew whenever the size changes: a tenth of the time of a small network. That of one
        # image takes 2 to 6 % less with its size fixed, too.
        sizes = [1, max_batch, *range(2, max_batch)][: max(1, min(_MOST_SIZES, _MOST_BYTES // self._bytes))]
        self._fixed = {size: self._fixed.get(size) or self._compile_fixed(size) for size in sizes}

    def acquire(self, n: int) -> UInt8Array:
        fixed = self._fixed.get(n)
        return super().acquire(n) if fixed is None else fixed.images

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        if outputs <= _HEAD:
            fixed = self._fixed.get(len(images))
            if fixed is not None:
                return fixed.run(images, outputs)
            request = self._any_size
        else:
            # All outputs of a graph are computed, and the feature map costs 3 to 5 % at ResNet-50: who never asks for
            # it does not pay for it, and the first who does waits for a second graph to be compiled.
            self._whole = request = self._whole or self._compile(None)
        request.infer({INPUT: images}, share_inputs=True, share_outputs=True)
        return _copied(request, outputs)

    def close(self) -> None:
        del self._any_size, self._fixed, self._whole, self._model

    def _compile_fixed(self, size: int) -> _Fixed:
        images = super().acquire(size)
        request = self._compile(_HEAD, size)
        request.set_tensor(INPUT, openvino.Tensor(images, shared_memory=True))
        return _Fixed(request, images)

    def _compile(self, outputs: frozenset[str] | None, images: int | None = None) -> openvino.InferRequest:
        """A graph that gives these outputs, or all for None, of so many images, or any number for None."""
        model = self._model.clone()  # the weights are shared
        if outputs is not None:
            kept = [result for result in model.get_results() if result.input_value(0).get_names() & outputs]
            model = openvino.Model(kept, model.get_parameters())
        if images is not None:
            model.reshape([images, *self._shape])
        return core().compile_model(model, "CPU", self._options).create_infer_request()


@dataclass(frozen=True)
class _Fixed:
    """A graph for one size of batch, with its input: what is found out anew for each call otherwise takes 30 µs."""

    request: openvino.InferRequest
    images: UInt8Array

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        if images is not self.images:  # of another executor
            self.images[:] = images
        self.request.infer(share_outputs=True)
        return _copied(self.request, outputs)


def _copied(request: openvino.InferRequest, outputs: frozenset[str]) -> dict[str, Float32Array]:
    return {name: request.get_tensor(name).data.copy() for name in outputs}
