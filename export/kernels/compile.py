"""Compiles kernels for a GPU architecture with Triton's compiler, which needs neither a GPU nor torch.

Parameters of a compiled kernel are not those of its source: tensor maps come with shapes and strides, and Triton
appends two pointers. The plan lists them, and each cubin is compared with the list.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from export.errors import EngineError
from export.kernels.packing.launches import KernelKey
from export.kernels.tiles import SHARED_BYTES
from models.extras import missing
from models.runtime.cuda_engine.cubin import BadCubin, Function, read_function
from models.runtime.cuda_engine.plan import PARAMETER_BYTES, Kernel

TRITON = "3.6.0"
"""The version of `triton` whose kernels were measured; other versions compile other code."""

COMPILER = f"triton {TRITON}"
"""Name and version of the compiler, for plans and stored measurements."""

_MODULES = ("convolution", "head", "pixels", "pooling")
_ALIGNED = [["tt.divisibility", 16]]
_SCALARS = ("i32", "fp32")


class NoTriton(EngineError):
    """The compiler is not installed, or not the version that the kernels are made for."""


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel."""

    cubin: bytes
    function: Function
    shared_bytes: int
    swizzles: tuple[int, ...]
    """Bytes of the swizzle of each tensor map."""
    boxes: tuple[tuple[int, ...], ...]
    """Block of each tensor map, from the outermost dimension."""


def require_triton() -> None:
    """Check that the pinned version of Triton is installed.

    Raises:
        NoTriton: it is not.
    """
    try:
        found = metadata.version("triton")
    except metadata.PackageNotFoundError:
        found = "none"
    if found != TRITON:
        raise NoTriton(missing(f"triton is {found}, and compiling the CUDA engine", f"triton {TRITON}", "kernels"))


def compile_all(keys: Sequence[KernelKey], architecture: str, processes: int | None = None) -> list[Compiled]:
    """Compile kernels in parallel.

    Args:
        keys: the kernels.
        architecture: such as sm_90.
        processes: processes that compile; by default one per CPU.

    Raises:
        NoTriton: the compiler is not installed.
        EngineError: a kernel cannot be compiled.
    """
    compiled = []
    for result in attempt_all(keys, architecture, processes):
        if isinstance(result, EngineError):
            raise result
        compiled.append(result)
    return compiled


def attempt_all(
    keys: Sequence[KernelKey], architecture: str, processes: int | None = None
) -> Iterator[Compiled | EngineError]:
    """Compile kernels in parallel, as `compile_all`; the error of a kernel takes its place.

    Raises:
        NoTriton: the compiler is not installed.
        EngineError: the compiler ends one of its processes.
    """
    require_triton()
    count = max(1, min(processes or os.cpu_count() or 1, len(keys)))
    context = multiprocessing.get_context("spawn")  # a forked process would have locks of this one's threads
    with (
        tempfile.TemporaryDirectory(prefix="kernels-") as folder,
        concurrent.futures.ProcessPoolExecutor(count, context, _use_cache, (folder,)) as pool,
    ):
        try:
            yield from pool.map(_attempt, keys, [architecture] * len(keys))
        except BrokenProcessPool as error:
            raise EngineError("a process of the compiler has ended: too little memory?") from error


def _attempt(key: KernelKey, architecture: str) -> Compiled | EngineError:
    try:
        return compile_kernel(key, architecture)
    except EngineError as error:
        return error


def _use_cache(folder: str) -> None:
    """Let Triton write its files to a folder, unless the user names one: the home folder may be read-only."""
    os.environ.setdefault("TRITON_CACHE_DIR", folder)


def compile_kernel(key: KernelKey, architecture: str) -> Compiled:
    """Compile one kernel.

    Raises:
        EngineError: Triton cannot compile it, or its metadata is not as expected.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    function = _source(key.source)
    absent = dict(key.constants)
    types = dict(key.types)
    names = [name for name in function.arg_names if name in types or name in absent]
    if names != function.arg_names:
        missing = sorted(set(function.arg_names) - set(names))
        raise EngineError(f"{key.source}: no argument for {', '.join(missing)}")
    signature = {name: types.get(name, "constexpr") for name in names}
    attributes = {(place,): _ALIGNED for place, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=function, signature=signature, constexprs=absent, attrs=attributes)
    options: dict[str, Any] = {"num_warps": key.warps, "num_stages": key.stages, "enable_fp_fusion": False}
    if key.max_registers is not None:
        options["maxnreg"] = key.max_registers
    capability = int(architecture.removeprefix("sm_"))
    try:
        compiled = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:  # the compiler's exceptions have no common base
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        raise EngineError(f"{key.source} {key.block}: cannot be compiled for {architecture}: {reason}") from error
    return _checked(key, architecture, compiled.metadata, compiled.asm["cubin"])


def check_parameters(kernel: Kernel, compiled: Compiled) -> None:
    """Compare the parameters of a plan with those of the cubin.

    Raises:
        EngineError: they differ.
    """
    expected = [PARAMETER_BYTES[parameter.kind] for parameter in kernel.parameters]
    found = [size for _, size in compiled.function.parameters]
    if found != expected:
        raise EngineError(f"{kernel.name}: the compiled kernel has parameters of {found} bytes, the plan {expected}")


def _source(name: str) -> Any:
    for module in _MODULES:
        found = getattr(importlib.import_module(f"export.kernels.language.{module}"), name, None)
        if found is not None:
            return found
    raise EngineError(f"there is no kernel {name}")


def _checked(key: KernelKey, architecture: str, found: Any, cubin: bytes) -> Compiled:
    """Everything that the launch depends on, from the compiler's metadata."""
    name = f"{key.source} {key.block} for {architecture}"
    unexpected = {
        field: getattr(found, field)
        for field, value in {
            "global_scratch_size": 0,
            "profile_scratch_size": 0,
            "num_ctas": 1,
            "launch_cooperative_grid": False,
            "launch_pdl": False,
            "num_warps": key.warps,
        }.items()
        if getattr(found, field) != value
    }
    if unexpected:
        raise EngineError(f"{name}: needs a launch that the plan does not describe: {json.dumps(unexpected)}")
    if found.shared > SHARED_BYTES[architecture]:
        raise EngineError(f"{name}: needs {found.shared} bytes of shared memory, and has {SHARED_BYTES[architecture]}")
    maps = found.tensordesc_meta or ()
    if len(maps) != sum(type.startswith("tensordesc") for _, type in key.types):
        raise EngineError(f"{name}: the compiler did not use its tensor maps")
    try:
        function = read_function(cubin, found.name)
    except BadCubin as error:
        raise EngineError(f"{name}: {error}") from error
    return Compiled(
        cubin=cubin,
        function=function,
        shared_bytes=found.shared,
        swizzles=tuple(16 << each["swizzle"] if each["swizzle"] else 0 for each in maps),
        boxes=tuple(tuple(each["block_size"]) for each in maps),
    )
