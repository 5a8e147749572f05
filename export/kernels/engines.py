"""Builds the CUDA engines of the versions of a repository into the engine cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from export.engines import EngineResult, Result, describe_failure
from export.errors import BuildError, UnsupportedNetwork
from export.kernels.build import build, fusion, resources
from export.kernels.compile import require_triton
from export.kernels.measuring.measuring import Measuring
from export.kernels.tiles import target
from models.artifact import manifest
from models.artifact.manifest import Artifact, ManifestError
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from models.runtime.cuda_engine import cache as cuda_cache
from models.runtime.cuda_engine.plan import LaunchPlan, Origin, Precision
from models.runtime.engine_cache import EngineCacheError
from models.runtime.engine_plan import ComputeCapability

SOURCES: dict[Precision, tuple[str, manifest.Precision]] = {
    "float16": ("onnx", "float32"),
    "bfloat16": ("onnx", "float32"),
    "int8": ("onnx", "int8"),
}
"""Format and precision of the file that an engine is built from."""
USUAL: tuple[Precision, ...] = ("float16", "int8")
"""Precisions that are built by default."""
_ORIGINS: dict[Origin, str] = {"measured": "measured", "table": "from the table", "rule": "by the rule"}


def capabilities(wanted: str | None) -> list[ComputeCapability]:
    """The GPUs to build for: those of this machine, or the one of a compute capability.

    Raises:
        NoDevice: this machine has no GPU.
        ValueError: the compute capability is malformed.
    """
    if wanted is not None:
        return [ComputeCapability.parse(wanted)]
    try:
        return sorted({device.compute_capability for device in cuda_driver.devices()})
    except NoDevice as error:
        raise NoDevice(f"{error}: --compute-capability builds for a GPU of another machine, such as 9.0") from error


def build_engines(
    versions: Sequence[Path],
    cache: Path,
    wanted: Sequence[ComputeCapability],
    batches: Sequence[int],
    precision: manifest.Precision | None = None,
    again: bool = False,
    measure: bool = True,
) -> Iterator[EngineResult]:
    """Build the engines of versions.

    Args:
        versions: folders of versions.
        cache: folder of the engine cache.
        wanted: GPUs to build for.
        batches: batch sizes.
        precision: build this precision only.
        again: build existing engines again.
        measure: with a GPU to build for in this machine, measure configurations that have not been measured.

    Raises:
        ManifestError: a version cannot be read.
        NoTriton: the compiler is not installed.
        UnsupportedDevice: there are no kernels for a GPU.
    """
    require_triton()
    measuring = Measuring(cache, measure)
    for capability in wanted:
        target(capability.architecture)
    for version in versions:
        described = manifest.read(version)
        name = f"{described.name} version {described.version}"
        for each in SOURCES if precision else USUAL:
            if precision not in (None, each):
                continue
            artifact = next((one for one in described.artifacts if (one.format, one.precision) == SOURCES[each]), None)
            if artifact is None:
                text = f"{each}: the version has no file in format {SOURCES[each][0]} and precision {SOURCES[each][1]}"
                yield EngineResult("skipped", f"{name}: {text}")
                continue
            for capability in wanted:
                result, text = _ensure(version, artifact, each, cache, capability, batches, again, measuring)
                yield EngineResult(result, f"{name}: {text}")
        if precision == "float32":
            yield EngineResult("skipped", f"{name}: the kernels compute in half precision and int8, not in float32")


def parse_batches(text: str) -> tuple[int, ...]:
    """Parse batch sizes such as "1,8,64".

    Raises:
        ValueError: the text has another form.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 10_000 for part in parts):
        raise ValueError(f"batch sizes of the CUDA engine are written as 1,8,64, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _ensure(
    version: Path,
    artifact: Artifact,
    precision: Precision,
    cache: Path,
    capability: ComputeCapability,
    batches: Sequence[int],
    again: bool,
    measuring: Measuring,
) -> tuple[Result, str]:
    where = cuda_cache.engine_file(cache, artifact.sha256, precision, capability).name
    if not again and _has(cache, artifact.sha256, precision, capability, batches):
        return "kept", f"{artifact.file}: {where} exists already"
    started = time.monotonic()
    try:
        manifest.check_hash(version / artifact.file, artifact.sha256)
        engine = build(version / artifact.file, precision, capability.architecture, batches, measuring)
        path = cuda_cache.write(cache, engine)
    except UnsupportedNetwork as error:  # another runtime serves it
        return "skipped", f"{artifact.file}: {error}"
    except (BuildError, ManifestError, OSError) as error:
        return "failed", describe_failure(error, artifact.file, cache)
    size, seconds = path.stat().st_size / 1e6, time.monotonic() - started
    return "built", f"{artifact.file}: {where}, {size:.1f} MB in {seconds:.1f} s, {describe(engine.plan)}"


def describe(plan: LaunchPlan) -> str:
    """Fusion and resources of an engine in one line."""
    fused, needs = fusion(plan), resources(plan)
    spilling = "none spills registers"
    if needs.spilling:
        spilling = f"{needs.spilling} spill registers, at most {needs.most_stack_bytes} bytes per thread"
    return (
        f"{fused.fused} of {fused.residual_adds} residual additions fused, {needs.kernels} kernels with at most "
        f"{needs.most_registers} registers and {needs.most_shared_bytes / 1024:.0f} KB of shared memory, {spilling}; "
        f"configurations: {_describe_origins(plan)}"
    )


def _describe_origins(plan: LaunchPlan) -> str:
    """Where the configurations of convolutions come from, such as `10 measured, 4 by the rule`."""
    launches = [launch for program in plan.programs for launch in program.launches]
    counts = Counter(launch.tile_origin.origin for launch in launches if launch.tile_origin is not None)
    return ", ".join(f"{counts[origin]} {text}" for origin, text in _ORIGINS.items() if counts[origin])


def _has(
    cache: Path, onnx_sha256: str, precision: Precision, capability: ComputeCapability, batches: Sequence[int]
) -> bool:
    try:
        return cuda_cache.find(cache, onnx_sha256, precision, capability).plan.batches == tuple(sorted(set(batches)))
    except EngineCacheError:
        return False
