"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.openvino_core import core, openvino, read
from service.executors.base import ExecutorError, Float32Array, HostExecutor, Source

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "bfloat16": ("onnx", "float32"),
    "int8": ("onnx", "int8"),
}
DEVICE = "cpu"

# Arithmetic of the layers in floating point. Without a hint OpenVINO computes "float32" in bfloat16 on CPUs that
# support it. In an int8 graph the error of bfloat16 is far below that of the rounding to eight bits, and it is a few
# per cent faster.
_FLOATS: Mapping[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}

_HEAD = frozenset({"logits", "probabilities"})

_MAX_FIXED_GRAPHS = 8
_MAX_FIXED_BYTES = 16 * 1024 * 1024
"""Bytes of weights in all graphs of fixed size: each graph has its own reordered weights, and a large network gains
nothing from a fixed size."""


class OpenVinoExecutor(HostExecutor):
    """Computes a portable graph with `threads` threads.

    Raises:
        ExecutorError: the source has an argument, the CPU does not support the precision, or the file cannot be loaded.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        if source.argument:
            raise ExecutorError(f"openvino takes no argument, not {source.argument!r}")
        precision = source.precision
        has_bfloat16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not has_bfloat16:
            raise ExecutorError("this CPU does not compute in bfloat16: choose float32 or int8")
        self._options = {
            "INFERENCE_PRECISION_HINT": _FLOATS[precision] if has_bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": source.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Several instances of one thread each would all be pinned to the same CPU.
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
        self._all_outputs: openvino.InferRequest | None = None

    def prepare(self, max_batch: int) -> None:
        # A graph of any size plans again whenever the size changes, which takes a tenth of the time of a small network.
        # With a fixed size of one image the graph takes 2 to 6 % less, too.
        sizes = [1, max_batch, *range(2, max_batch)][: max(1, min(_MAX_FIXED_GRAPHS, _MAX_FIXED_BYTES // self._bytes))]
        self._fixed = {size: self._fixed.get(size) or self._compile_fixed(size) for size in sizes}

    def _buffer(self, n: int) -> UInt8Array:
        fixed = self._fixed.get(n)
        return super()._buffer(n) if fixed is None else fixed.images

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        if outputs <= _HEAD:
            fixed = self._fixed.get(len(gathered))
            if fixed is not None:
                fixed.request.infer(share_outputs=True)
                return _copied(fixed.request, outputs)
            request = self._any_size
        else:
            # All outputs of a graph are computed, and the feature map costs 3 to 5 % of a ResNet-50. So the graph with
            # all outputs is compiled when a request needs it for the first time.
            self._all_outputs = request = self._all_outputs or self._compile(None)
        request.infer({INPUT: gathered}, share_inputs=True, share_outputs=True)
        return _copied(request, outputs)

    def close(self) -> None:
        del self._any_size, self._fixed, self._all_outputs, self._model

    def _compile_fixed(self, size: int) -> _FixedGraph:
        images = super()._buffer(size)
        request = self._compile(_HEAD, size)
        request.set_tensor(INPUT, openvino.Tensor(images, shared_memory=True))
        return _FixedGraph(request, images)

    def _compile(self, outputs: frozenset[str] | None, images: int | None = None) -> openvino.InferRequest:
        """Compile the graph for some outputs, None for all, and a number of images, None for any number."""
        model = self._model.clone()  # shares the weights
        if outputs is not None:
            kept = [result for result in model.get_results() if result.input_value(0).get_names() & outputs]
            model = openvino.Model(kept, model.get_parameters())
        if images is not None:
            model.reshape([images, *self._shape])
        return core().compile_model(model, "CPU", self._options).create_infer_request()


@dataclass(frozen=True)
class _FixedGraph:
    """A graph for one batch size, with its input tensor: binding a tensor for each call takes 30 µs."""

    request: openvino.InferRequest
    images: UInt8Array


def _copied(request: openvino.InferRequest, outputs: frozenset[str]) -> dict[str, Float32Array]:
    return {name: request.get_tensor(name).data.copy() for name in outputs}


EXECUTOR = OpenVinoExecutor
