"""CUDA engines for the fake driver whose weights are the ONNX file: the second kernel computes it on the CPU.

The first kernel copies the images into a buffer with a border of zeros, from which the second one reads them by a
tensor map, so that wrong places, missing zeros and damaged weights give wrong answers.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import manifest
from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.cuda_engine import cache as engine_cache
from models.runtime.cuda_engine.file import CudaEngine, pack
from models.runtime.cuda_engine.plan import (
    PARAMETER_BYTES,
    Argument,
    Binary,
    Buffer,
    Kernel,
    Launch,
    LaunchPlan,
    Layer,
    MapArgument,
    Output,
    Parameter,
    Pointer,
    Program,
    Region,
    Scalar,
    TensorMap,
)
from models.runtime.onnxruntime import ort
from tests.support.fake_cubins import Compute, Launched, cubin

BATCHES = (1, 4, 32)
CHANNELS = 16
"""Channels of the buffer: those of the images and zeros."""
_SOURCES: dict[str, tuple[Precision, Precision]] = {
    "float16": ("float16", "float32"), "bfloat16": ("bfloat16", "float32"), "int8": ("int8", "int8"),
}  # fmt: skip
"""Precision of the engine, and of the ONNX file that it is built from."""


def write_engine(cache_folder: Path, version: Path, precision: Precision = "float16", **changes: Any) -> Path:
    """Build an engine for a version, and put it into a cache.

    Args:
        cache_folder: the cache.
        version: folder of the version.
        precision: precision of the engine.
        changes: as for `build_engine`.

    Returns:
        The file.
    """
    return engine_cache.write(cache_folder, build_engine(version, precision, **changes))


def build_engine(
    version: Path,
    precision: Precision = "float16",
    batches: tuple[int, ...] = BATCHES,
    architecture: str = "sm_90",
    cuda: int = 12000,
    code: bytes | None = None,
    weights: bytes | None = None,
) -> CudaEngine:
    """An engine for a version.

    Args:
        version: folder of the version.
        precision: precision of the engine.
        batches: its batch sizes.
        architecture: the GPUs that it is for.
        cuda: the oldest version of CUDA whose driver loads it.
        code: the cubin, instead of the right one.
        weights: instead of the ONNX file.
    """
    described = manifest.read(version)
    source = _SOURCES[precision][1]
    artifact = next(item for item in described.artifacts if (item.format, item.precision) == ("onnx", source))
    onnx = (version / artifact.file).read_bytes()
    image = described.preprocess.shape
    rows = _rows(onnx, described.outputs)
    kernels = _prepare_kernel(), _network_kernel(tuple(rows))
    functions = {
        kernel.source: [PARAMETER_BYTES[parameter.kind] for parameter in kernel.parameters] for kernel in kernels
    }
    weights = weights or _computed(version, described, precision)
    plan = LaunchPlan(
        architecture=architecture,
        precision=precision,  # type: ignore[arg-type]
        compiler="none 0",
        onnx_sha256=artifact.sha256,
        image=image,
        outputs=tuple(Output(name=name, row=row) for name, row in rows.items()),
        weights=Region(offset=0, bytes=len(weights)),
        cubins=(),
        kernels=kernels,
        layers=tuple(_layer(name, image) for name in ("prepare", "network")),
        programs=tuple(_program(batch, image, rows, len(weights)) for batch in batches),
    )
    return pack(plan, weights, [code or cubin(architecture, functions, cuda)])


def _computed(version: Path, described: manifest.Manifest, precision: Precision) -> bytes:
    """The ONNX file that the kernel computes: one of less precision for engines of less precision, where there is one.

    The graph of bfloat16 is that of float16: ONNX Runtime does not compute the other on a CPU.
    """
    files = {item.precision: item.file for item in described.artifacts if item.format == "onnx"}
    wanted: Precision = "int8" if precision == "int8" else "float16"
    return (version / files.get(wanted, files["float32"])).read_bytes()


def functions(**instead: Compute) -> dict[str, Compute]:
    """The Python functions of the kernels, by name; `instead` replaces some."""
    return {"prepare": _prepare, "network": _network, **instead}


def _prepare(launched: Launched) -> None:
    batch, height, width, channels = (launched.int32(number) for number in range(2, 6))
    assert launched.grid == (batch, 1, 1)
    images = launched.array(0, (batch, height, width, channels), np.uint8)
    padded = launched.array(1, (batch, height + 1, width + 1, CHANNELS), np.uint8)
    padded[:, :height, :width, :channels] = images


def _network(launched: Launched) -> None:
    padded = launched.tensor(0)
    batch, height, width, channels, size, outputs = (launched.int32(number) for number in range(1, 7))
    assert padded.shape == (batch, height + 1, width + 1, CHANNELS)
    assert not padded[:, height].any() and not padded[:, :, width].any() and not padded[..., channels:].any()
    images = np.ascontiguousarray(padded[:, :height, :width, :channels])
    onnx = launched.array(7, (size,), np.uint8).tobytes()
    for number, value in enumerate(_run(onnx, images)[:outputs]):
        launched.array(8 + number, value.shape, np.float32)[...] = value


def _run(onnx: bytes, images: UInt8Array) -> list[Any]:
    session = _session(hashlib.sha256(onnx).hexdigest(), onnx)
    outputs: list[Any] = session.run([output.name for output in session.get_outputs()], {INPUT: images})
    return outputs


_sessions: dict[str, Any] = {}


def _session(digest: str, onnx: bytes) -> Any:
    if digest not in _sessions:
        _sessions[digest] = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return _sessions[digest]


@cache
def _rows(onnx: bytes, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    outputs = _session(hashlib.sha256(onnx).hexdigest(), onnx).get_outputs()
    assert [output.name for output in outputs] == list(names)
    return {output.name: tuple(output.shape[1:]) for output in outputs}


def _kernel(name: str, parameters: dict[str, str], shared_bytes: int) -> Kernel:
    return Kernel(
        name=name,
        source=name,
        constants={},
        warps=4,
        stages=1,
        parameters=tuple(
            Parameter.model_validate({"name": name, "kind": kind, "type": kind}) for name, kind in parameters.items()
        ),
        binary=Binary(cubin=0, function=name, shared_bytes=shared_bytes, registers=32, stack_bytes=0),
    )  # fmt: skip


def _prepare_kernel() -> Kernel:
    numbers = dict.fromkeys(("batch", "height", "width", "channels"), "int32")
    return _kernel("prepare", {"images": "pointer", "padded": "pointer", **numbers, "hidden.0": "scratch"}, 0)


def _network_kernel(outputs: tuple[str, ...]) -> Kernel:
    numbers = dict.fromkeys(("batch", "height", "width", "channels", "size", "outputs"), "int32")
    pointers = dict.fromkeys(("weights", *outputs), "pointer")
    return _kernel("network", {"padded": "tensor_map", **numbers, **pointers, "hidden.0": "scratch"}, 64 * 1024)


def _program(batch: int, image: tuple[int, int, int], rows: dict[str, tuple[int, ...]], weight_bytes: int) -> Program:
    height, width, channels = image
    images, padded = batch * height * width * channels, batch * (height + 1) * (width + 1) * CHANNELS
    sizes = {name: batch * int(np.prod(row)) * 4 for name, row in rows.items()}
    numbers = tuple(Scalar(value=value) for value in (batch, height, width, channels))
    whole = Pointer(buffer=2, offset=0, bytes=padded, access="read")
    padded_map = TensorMap(
        address=whole,
        element="uint8",
        shape=(CHANNELS, width + 1, height + 1, batch),
        strides=(CHANNELS, CHANNELS * (width + 1), CHANNELS * (width + 1) * (height + 1)),
        box=(CHANNELS, 4, 4, 1),
        swizzle=0,
    )
    prepare: tuple[Argument, ...] = (
        Pointer(buffer=0, offset=0, bytes=images, access="read"),
        Pointer(buffer=2, offset=0, bytes=padded, access="update"),
        *numbers,
        Scalar(value=0),
    )
    network: tuple[Argument, ...] = (
        MapArgument(tensor_map=0),
        *numbers,
        Scalar(value=weight_bytes),
        Scalar(value=len(rows)),
        Pointer(buffer=1, offset=0, bytes=weight_bytes, access="read"),
        *(Pointer(buffer=3 + index, offset=0, bytes=size, access="write") for index, size in enumerate(sizes.values())),
        Scalar(value=0),
    )
    return Program(
        batch=batch,
        arena_bytes=padded + 512,
        buffers=(
            Buffer(name="images", kind="images", bytes=images, offset=0, first=0, last=0),
            Buffer(name="weights", kind="weights", bytes=weight_bytes, offset=0, first=1, last=1),
            Buffer(name="padded", kind="activation", bytes=padded, offset=512, zeroed=True, first=0, last=1),
            *(Buffer(name=name, kind="output", bytes=size, offset=0, first=1, last=1) for name, size in sizes.items()),
        ),
        tensor_maps=(padded_map,),
        launches=(
            Launch(kernel=0, layer=0, grid=(batch, 1, 1), arguments=prepare),
            Launch(kernel=1, layer=1, grid=(1, batch, 1), arguments=network),
        ),
    )


def _layer(name: str, image: tuple[int, int, int]) -> Layer:
    return Layer(
        name=name,
        kind="convolution",
        nodes=(name,),
        bytes_per_image=int(np.prod(image)),
        weight_bytes=64,
        multiply_adds=1000,
    )
