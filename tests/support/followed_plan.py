"""Follows the launches of an engine on a fake driver, and holds them against its plan.

Every launch must be the next one of a program on its stream, with the grid, the numbers and the places that the plan
gives. Programs and streams share the weights and nothing else that kernels write, except for images and outputs, which
the programs of a stream share. A kernel gets at the memory that its arguments name and no other, and what it may only
read must be the same afterwards. Activations hold rubbish outside of their lifetimes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda_engine.file import CudaEngine
from models.runtime.cuda_engine.plan import ALIGNMENT, Buffer, Launch, MapArgument, Pointer, Program
from tests.support.fake_cubins import Compute, EncodedMap, Launched, Observer
from tests.support.fake_cuda import RUBBISH, FakeRuntime


@dataclass(eq=False)
class _Run:
    """One pass over a program on a stream, and the bases of its buffers that launches have shown."""

    candidates: list[tuple[Program, dict[int, int]]]
    position: int = 0


@dataclass
class FollowedPlan(Observer):
    """Observes a driver that runs one engine.

    Args:
        runtime: where the memory is.
        engine: the engine.
    """

    runtime: FakeRuntime
    engine: CudaEngine
    passes: list[tuple[int, int]] = field(default_factory=list)
    """Stream and batch size of each complete pass, as it was enqueued."""
    _runs: dict[int, _Run] = field(default_factory=dict)
    _bases: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    """By stream and batch size."""

    def enqueued(self, launched: Launched) -> Callable[[Compute], None]:
        run = self._runs.get(launched.stream)
        if run is None:
            run = self._runs[launched.stream] = _Run([(program, {}) for program in self.engine.plan.programs])
        position = run.position
        left, reasons = [], []
        for program, bases in run.candidates:
            try:
                left.append((program, self._match(program, position, launched, bases)))
            except AssertionError as error:
                reasons.append(f"batch {program.batch}: {error}")
        assert left, f"launch {position} of {launched.name} is in no program: {'; '.join(reasons)}"
        run.candidates, run.position = left, position + 1
        complete = [pair for pair in left if len(pair[0].launches) == run.position]
        if complete:
            (program, bases) = complete[0]
            del self._runs[launched.stream]
            self._remember(launched.stream, program, bases)
        return lambda compute: self._compute(run, position, launched, compute)

    def _match(self, program: Program, position: int, launched: Launched, bases: dict[int, int]) -> dict[int, int]:
        """The bases, with those that this launch shows."""
        launch = program.launches[position]
        kernel = self.engine.plan.kernels[launch.kernel]
        assert kernel.binary is not None and kernel.binary.function == launched.name, "another kernel"
        assert launch.grid == launched.grid and 32 * kernel.warps == launched.threads, "another grid"
        bases = dict(bases)
        for parameter, argument, value in zip(kernel.parameters, launch.arguments, launched.values, strict=True):
            if isinstance(argument, MapArgument):
                tensor_map, encoded = program.tensor_maps[argument.tensor_map], EncodedMap.decode(value)
                assert encoded.shape == tensor_map.shape and encoded.strides == tensor_map.strides, "another map"
                assert encoded.box == tensor_map.box and encoded.extent <= tensor_map.address.bytes, "another map"
                self._show(program, bases, tensor_map.address, encoded.address)
            elif isinstance(argument, Pointer):
                self._show(program, bases, argument, struct.unpack("<Q", value)[0])
            else:
                form = {"int32": "<i", "int64": "<q", "float32": "<f", "scratch": "<Q"}[parameter.kind]
                assert value == struct.pack(form, argument.value), f"another {parameter.name}"
        return bases

    def _show(self, program: Program, bases: dict[int, int], pointer: Pointer, address: int) -> None:
        """A launch has an address inside a buffer."""
        buffer, base = program.buffers[pointer.buffer], address - pointer.offset
        assert bases.setdefault(pointer.buffer, base) == base, f"another place of {buffer.name}"
        assert base % ALIGNMENT == 0, f"{buffer.name} is not aligned"
        memory = self.runtime.device_memory(base, buffer.bytes)
        if buffer.kind == "weights":
            assert bytes(memory) == bytes(self.engine.weights), "other weights"
        for index, other in bases.items():
            known = program.buffers[index]
            if "activation" == known.kind == buffer.kind:
                assert other - known.offset == base - buffer.offset, "activations outside of one arena"

    def _remember(self, stream: int, program: Program, bases: dict[int, int]) -> None:
        """A pass is complete: its buffers lie where they lay before, and apart from those of others."""
        assert self._bases.setdefault((stream, program.batch), bases) == bases, "the program has moved"
        self.passes.append((stream, program.batch))
        for (other_stream, batch), others in self._bases.items():
            if (other_stream, batch) == (stream, program.batch):
                continue
            other = next(each for each in self.engine.plan.programs if each.batch == batch)
            for one in _ranges(program, bases, other_stream == stream):
                for two in _ranges(other, others, other_stream == stream):
                    assert one.stop <= two.start or two.stop <= one.start, "programs share memory"

    def _compute(self, run: _Run, position: int, launched: Launched, compute: Compute) -> None:
        program, bases = run.candidates[0]
        launch = program.launches[position]
        self._spoil(program, bases, [buffer for buffer in program.buffers if buffer.first == position])
        if position == 0:
            for index, buffer in enumerate(program.buffers):
                assert not buffer.zeroed or index in bases, "a buffer with zeros is not used"
        pointers = list(_pointers(program, launch))
        allowed = [_range(bases, pointer) for pointer in pointers]
        kept = [
            (memory, memory.copy())
            for memory in (
                self.runtime.device_memory(bases[index], buffer.bytes)
                for index, buffer in enumerate(program.buffers)
                if index in bases
            )
        ]
        writable = [
            self.runtime.device_memory(bases[pointer.buffer] + pointer.offset, pointer.bytes)
            for pointer in pointers
            if pointer.access != "read"
        ]

        def memory(address: int, size: int) -> UInt8Array:
            inside = any(each.start <= address and address + size <= each.stop for each in allowed)
            assert inside, f"{launched.name} touches memory that the plan does not give it"
            return self.runtime.device_memory(address, size)

        compute(replace(launched, memory=memory))
        written = [each.copy() for each in writable]
        for each in writable:  # what may change is taken out of the comparison
            each.fill(0)
        for current, before in kept:
            _clear(before, current, writable)
            np.testing.assert_array_equal(current, before, f"{launched.name} writes where the plan forbids it")
        for each, content in zip(writable, written, strict=True):
            each[:] = content
        self._spoil(program, bases, [buffer for buffer in program.buffers if buffer.last == position])

    def _spoil(self, program: Program, bases: dict[int, int], buffers: Sequence[Buffer]) -> None:
        """Fill activations that hold no value with rubbish."""
        for buffer in buffers:
            if buffer.kind == "activation" and not buffer.zeroed:
                self.runtime.device_memory(bases[program.buffers.index(buffer)], buffer.bytes).fill(RUBBISH)


def _pointers(program: Program, launch: Launch) -> Sequence[Pointer]:
    return [
        program.tensor_maps[argument.tensor_map].address if isinstance(argument, MapArgument) else argument
        for argument in launch.arguments
        if isinstance(argument, Pointer | MapArgument)
    ]


def _range(bases: dict[int, int], pointer: Pointer) -> range:
    start = bases[pointer.buffer] + pointer.offset
    return range(start, start + pointer.bytes)


def _ranges(program: Program, bases: dict[int, int], same_stream: bool) -> list[range]:
    """Memory that a program shares with no other one of another stream, or of the same."""
    shared = ("weights", "images", "output") if same_stream else ("weights",)
    return [
        range(base, base + program.buffers[index].bytes)
        for index, base in bases.items()
        if program.buffers[index].kind not in shared
    ]


def _clear(before: UInt8Array, current: UInt8Array, writable: Sequence[UInt8Array]) -> None:
    """Set to zero in a copy of memory what `writable` covers of the memory itself."""
    start = current.ctypes.data
    for each in writable:
        first = max(each.ctypes.data - start, 0)
        last = min(each.ctypes.data + each.nbytes - start, current.nbytes)
        if first < last:
            before[first:last] = 0
