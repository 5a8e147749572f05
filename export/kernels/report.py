"""Prints the CUDA engines of a version that are in the engine cache."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.kernels.engines import describe
from models.artifact import manifest
from models.console import printable
from models.runtime.cuda_engine import cache as cuda_cache
from models.runtime.cuda_engine.file import CudaEngineError, read
from models.runtime.cuda_engine.plan import Launch, LaunchPlan, Program


def print_engines(version: Path, cache: Path, console: Console, kernels: bool = False) -> None:
    """Print a line per engine, and with `kernels` a table of the kernels of each layer.

    Raises:
        ManifestError: the manifest cannot be read.
    """
    for artifact in manifest.read(version).artifacts:
        for path in cuda_cache.built(cache, artifact.sha256):
            try:
                plan = read(path).plan
            except CudaEngineError as error:
                console.print(f"{artifact.file}: {error}", highlight=False, soft_wrap=True, markup=False)
                continue
            batches = ", ".join(map(str, plan.batches))
            text = f"{artifact.file}: {path.name} for {plan.architecture}, batches {batches}: {describe(plan)}"
            console.print(text, highlight=False, soft_wrap=True, markup=False)
            if kernels:
                console.print(_table(plan))


def _table(plan: LaunchPlan) -> Table:
    """The layers with the kernel of each batch size."""
    table = Table("layer", "kind", "additions", *(f"batch {batch}" for batch in plan.batches))
    for number, layer in enumerate(plan.layers):
        kernels = [_kernels(plan, program, number) for program in plan.programs]
        table.add_row(Text(printable(layer.name)), Text(layer.kind), str(len(layer.additions) or ""), *kernels)
    return table


def _kernels(plan: LaunchPlan, program: Program, layer: int) -> str:
    """The kernels of a layer: name, block, registers, and where the configuration comes from."""
    return ", ".join(_kernel(plan, launch) for launch in program.launches if launch.layer == layer)


def _kernel(plan: LaunchPlan, launch: Launch) -> str:
    kernel, origin = plan.kernels[launch.kernel], launch.tile_origin
    parts = [kernel.name]
    if origin is not None:
        parts += [f"{kernel.warps} warps", f"{kernel.stages} stages"]
    if kernel.binary is not None:
        parts.append(f"{kernel.binary.registers} registers")
    if origin is not None:
        parts.append(origin.origin + (f" {origin.microseconds:.1f} µs" if origin.microseconds is not None else ""))
    return ", ".join(parts)
