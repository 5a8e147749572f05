"""The launches of a program in Triton's interpreter: the same plan and arguments as on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda_engine.file import CudaEngine
from models.runtime.cuda_engine.plan import Launch, Pointer, Program
from tests.support.interpreter import corrections

_DTYPES = {
    "*u8": torch.uint8,
    "*i8": torch.int8,
    "*i32": torch.int32,
    "*fp16": torch.float16,
    "*bf16": torch.bfloat16,
    "*fp32": torch.float32,
}
_MAP_TYPES = {"uint8": torch.int8, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MODULES = ("convolution", "head", "pixels", "pooling")
_UNWRITTEN = 0xFF
"""Not a number in all float types; -1 in int8."""

After = Callable[[int, "Memory"], None]
"""Called after each launch with its number."""


class Memory:
    """The buffers of a program."""

    def __init__(self, engine: CudaEngine, program: Program, images: UInt8Array) -> None:
        self.program = program
        arena = torch.full((program.arena_bytes,), _UNWRITTEN, dtype=torch.uint8)
        self.buffers = []
        for buffer in program.buffers:
            if buffer.kind == "images":
                content = torch.from_numpy(images.reshape(-1).copy())
            elif buffer.kind == "weights":
                content = torch.from_numpy(np.frombuffer(engine.weights, np.uint8).copy())
            elif buffer.kind == "output":
                content = torch.full((buffer.bytes,), _UNWRITTEN, dtype=torch.uint8)
            else:
                content = arena[buffer.offset : buffer.offset + buffer.bytes]
                if buffer.zeroed:
                    content.zero_()
            self.buffers.append(content)

    def at(self, pointer: Pointer, dtype: torch.dtype) -> torch.Tensor:
        """The memory of a pointer."""
        content = self.buffers[pointer.buffer]
        return content[pointer.offset : pointer.offset + pointer.bytes].view(dtype)


def run(engine: CudaEngine, images: UInt8Array, after: After | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """All outputs for a batch whose size the plan has.

    Args:
        engine: a plan for the interpreter.
        images: uint8 [batch, height, width, channels].
        after: called after each launch.
    """
    corrections.apply()
    program = next(program for program in engine.plan.programs if program.batch == len(images))
    memory = Memory(engine, program, images)
    for number, launch in enumerate(program.launches):
        interpret(engine, memory, launch)
        if after is not None:
            after(number, memory)
    rows = {output.name: output.row for output in engine.plan.outputs}
    return {
        buffer.name: memory.buffers[place].view(torch.float32).numpy().reshape(len(images), *rows[buffer.name])
        for place, buffer in enumerate(program.buffers)
        if buffer.kind == "output"
    }


def interpret(engine: CudaEngine, memory: Memory, launch: Launch) -> None:
    """Run one launch, after `corrections.apply`."""
    kernel = engine.plan.kernels[launch.kernel]
    for name in _MODULES:
        function = getattr(importlib.import_module(f"export.kernels.language.{name}"), kernel.source, None)
        if function is not None:
            function[launch.grid](**_arguments(engine, memory, launch), **kernel.constants)


def _arguments(engine: CudaEngine, memory: Memory, launch: Launch) -> dict[str, Any]:
    """The arguments by name, without those that only a compiled kernel has."""
    found: dict[str, Any] = {}
    parameters = engine.plan.kernels[launch.kernel].parameters
    for parameter, argument in zip(parameters, launch.arguments, strict=True):
        if parameter.kind == "scratch" or "." in parameter.name:
            continue
        if isinstance(argument, Pointer):
            found[parameter.name] = memory.at(argument, _DTYPES[parameter.type])
        elif parameter.kind == "tensor_map":
            tensor_map = memory.program.tensor_maps[argument.tensor_map]  # type: ignore[union-attr]
            base = memory.at(tensor_map.address, _MAP_TYPES[tensor_map.element])
            shape, box = tensor_map.shape[::-1], tensor_map.box[::-1]
            found[parameter.name] = TensorDescriptor(base, list(shape), [shape[1], 1], list(box))
        else:
            found[parameter.name] = argument.value  # type: ignore[union-attr]
    return found
