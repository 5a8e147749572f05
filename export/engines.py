"""Builds engines of the versions of a repository into the engine cache. No torch."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.errors import BuildError
from export.formats import tensorrt
from export.formats.tensorrt import BuildOptions, BuiltEngine
from export.fusion.tensorrt import UnreadableInspection, read_inspection, read_log
from models.artifact import manifest
from models.artifact.manifest import Artifact, FusionReport, ManifestError, Precision
from models.runtime import engine_cache, tensorrt_runtime
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import EngineCacheError
from models.runtime.engine_plan import BatchRange, ComputeCapability, Flavour, Plan, Platform

Result = Literal["built", "kept", "skipped", "failed"]

_RANGE = re.compile(r"(?P<smallest>[1-9][0-9]{0,4})(-(?P<largest>[1-9][0-9]{0,4}))?")


@dataclass(frozen=True)
class EngineResult:
    """Result of one artifact."""

    result: Result
    text: str
    """One line with the file, the result and its reason."""


def platforms(flavour: Flavour | None, compute_capability: str | None) -> list[Platform]:
    """The platforms to build engines for: those of this machine, or the one of a compute capability.

    Raises:
        NoDevice: this machine has no GPU.
        NoTensorRT: TensorRT is not installed or cannot be loaded.
        ValueError: the compute capability is malformed, or TensorRT cannot build for it without the GPU.
    """
    if compute_capability is None:
        try:
            return tensorrt_runtime.platforms(flavour)
        except NoDevice as error:
            raise NoDevice(
                f"{error}: --compute-capability builds for a GPU of another machine, with TensorRT for RTX"
            ) from error
    if flavour == "tensorrt":
        raise ValueError("TensorRT builds only for the GPUs of this machine: leave --compute-capability out")
    trt = tensorrt_runtime.load("tensorrt_rtx")
    return [Platform("tensorrt_rtx", trt.__version__, ComputeCapability.parse(compute_capability))]


def build_engines(
    versions: Sequence[Path],
    cache: Path,
    platforms: Sequence[Platform],
    options: BuildOptions,
    precision: Precision | None = None,
    again: bool = False,
) -> Iterator[EngineResult]:
    """Build an engine of every artifact that TensorRT supports.

    Args:
        versions: folders of versions.
        cache: folder of the engine cache; created if it does not exist.
        platforms: platforms of the engines.
        options: how the engines are built.
        precision: build artifacts of this precision only.
        again: build existing engines again.

    Raises:
        ManifestError: a version cannot be read.
        NoTensorRT: TensorRT cannot be loaded.
    """
    for place, target in enumerate(platforms):
        if place and target.flavour == "tensorrt":
            text = f"{target.device}: TensorRT builds for the first GPU; select this one with CUDA_VISIBLE_DEVICES"
            yield EngineResult("skipped", text)
            continue
        trt = tensorrt_runtime.load(target.flavour)
        for version in versions:
            described = manifest.read(version)
            for artifact in (each for each in described.artifacts if precision in (None, each.precision)):
                result, text = _ensure(version, artifact, cache, trt, target, options, again)
                yield EngineResult(result, f"{described.name} version {described.version}: {text}")


def _ensure(
    version: Path, artifact: Artifact, cache: Path, trt: Any, target: Platform, options: BuildOptions, again: bool
) -> tuple[Result, str]:
    if reason := _unsupported(artifact, target):
        return "skipped", f"{artifact.file}: {reason}"
    with contextlib.suppress(EngineCacheError):  # without an engine it is built below
        plan, _ = engine_cache.find(cache, artifact.sha256, artifact.precision, target)
        if not again:
            return "kept", f"{artifact.file}: {plan.name} exists already"
    try:
        manifest.check_hash(version / artifact.file, artifact.sha256)
        return "built", f"{artifact.file}: {_build(version / artifact.file, artifact, cache, trt, target, options)}"
    except (BuildError, ManifestError, OSError) as error:
        return "failed", describe_failure(error, artifact.file, cache)


def describe_failure(error: Exception, file: str, cache: Path) -> str:
    """One line that says why no engine was built.

    Args:
        error: BuildError, ManifestError or OSError of the build.
        file: the file that the engine is built from.
        cache: folder of the engine cache.
    """
    if isinstance(error, OSError):
        return f"{cache}: cannot be written: {error.strerror}"
    if isinstance(error, ManifestError):
        return str(error)
    return f"{file}: {error}"


def _unsupported(artifact: Artifact, target: Platform) -> str | None:
    """The reason why TensorRT cannot build an engine of an artifact; None if it can."""
    if artifact.format != "onnx":
        return f"its format, {artifact.format}, is for another runtime"
    if artifact.precision == "int8" and target.flavour == "tensorrt_rtx":
        return "TensorRT for RTX has no convolutions in int8"
    return None


def _build(path: Path, artifact: Artifact, cache: Path, trt: Any, target: Platform, options: BuildOptions) -> str:
    """Build an engine into the cache; returns a line about it."""
    started = time.monotonic()
    rtx = target.flavour == "tensorrt_rtx"
    cache.mkdir(parents=True, exist_ok=True)
    engine = tensorrt.build(
        trt,
        path,
        options,
        compute_capability=target.compute_capability if rtx else None,
        timing=None if rtx else engine_cache.timing_file(cache, target),  # RTX times no kernels when it builds
    )
    fusion = _fusion(trt, engine, path, rtx)
    plan = Plan.of(
        engine.content,
        artifact,
        target,
        options.batches,
        version_compatible=options.version_compatible,
        # The runtime completes an engine of RTX on its GPU.
        hardware="compute-capability" if rtx else options.hardware,
        fusion=fusion,
    )
    engine_cache.write(cache, plan, engine.content)
    fused = (
        "fusion not known" if fusion is None else f"{fusion.fused} of {fusion.residual_adds} residual additions fused"
    )
    return f"{plan.name}, {len(engine.content) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s, {fused}"


def _fusion(trt: Any, engine: BuiltEngine, path: Path, rtx: bool) -> FusionReport | None:
    """The fusion report of an engine; None if TensorRT describes its layers in an unknown form."""
    try:
        return read_log(engine.layers, path) if rtx else read_inspection(tensorrt.inspect(trt, engine), path)
    except UnreadableInspection:
        return None


def parse_batches(text: str) -> tuple[BatchRange, ...]:
    """Parse optimisation profiles such as "1,2-8,9-32"; each is optimised for its largest batch.

    Raises:
        ValueError: the text has another form.
    """
    ranges = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(f"batches are written as 1,2-8,9-32, not {text!r}")
        smallest, largest = int(found["smallest"]), int(found["largest"] or found["smallest"])
        ranges.append(BatchRange(min=smallest, opt=largest, max=largest))
    return tuple(ranges)
