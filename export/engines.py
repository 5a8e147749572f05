"""Builds the engines that this machine can use, from the versions of a repository into the engine cache. No torch."""

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
from export.formats.tensorrt import Engine, Options
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
class Outcome:
    """What became of one artifact."""

    result: Result
    text: str
    """One line: the file, what was done, why."""


def machines(flavour: Flavour | None, compute_capability: str | None) -> list[Platform]:
    """What engines are to be built for: the GPUs of this machine, or one that is not here.

    Raises:
        NoDevice: there is no GPU here.
        NoTensorRT: there is none for it.
        ValueError: the compute capability is not written as 8.9, or cannot be built for without the GPU.
    """
    if compute_capability is None:
        try:
            return tensorrt_runtime.platforms(flavour)
        except NoDevice as error:
            raise NoDevice(
                f"{error}: --compute-capability builds for a GPU elsewhere, with TensorRT for RTX"
            ) from error
    if flavour == "tensorrt":
        raise ValueError("TensorRT builds only for the GPU that it finds: leave --compute-capability out")
    trt = tensorrt_runtime.load("tensorrt_rtx")
    return [Platform("tensorrt_rtx", trt.__version__, ComputeCapability.parse(compute_capability))]


def build_engines(
    versions: Sequence[Path],
    cache: Path,
    machines: Sequence[Platform],
    options: Options,
    precision: Precision | None = None,
    again: bool = False,
) -> Iterator[Outcome]:
    """Build an engine of every artifact that TensorRT takes.

    Args:
        versions: their folders.
        cache: the engine cache; made if it is not there.
        machines: what the engines are for.
        options: how they are built.
        precision: build from the artifacts in this one only.
        again: build also what is there already.

    Raises:
        ManifestError: a version cannot be read.
        NoTensorRT: it cannot be loaded.
    """
    for place, target in enumerate(machines):
        if place and target.flavour == "tensorrt":
            text = f"{target.device}: TensorRT builds for the first GPU; choose this one with CUDA_VISIBLE_DEVICES"
            yield Outcome("skipped", text)
            continue
        trt = tensorrt_runtime.load(target.flavour)
        for version in versions:
            described = manifest.read(version)
            for artifact in (each for each in described.artifacts if precision in (None, each.precision)):
                result, text = _ensure(version, artifact, cache, trt, target, options, again)
                yield Outcome(result, f"{described.name} version {described.version}: {text}")


def _ensure(
    version: Path, artifact: Artifact, cache: Path, trt: Any, target: Platform, options: Options, again: bool
) -> tuple[Result, str]:
    if reason := _not_for(artifact, target):
        return "skipped", f"{artifact.file}: {reason}"
    with contextlib.suppress(EngineCacheError):  # that there is none is why it is built
        plan, _ = engine_cache.find(cache, artifact.sha256, artifact.precision, target)
        if not again:
            return "kept", f"{artifact.file}: {plan.name} is there already"
    try:
        manifest.check_hash(version / artifact.file, artifact.sha256)
        return "built", f"{artifact.file}: {_build(version / artifact.file, artifact, cache, trt, target, options)}"
    except BuildError as error:
        return "failed", f"{artifact.file}: {error}"
    except ManifestError as error:
        return "failed", str(error)
    except OSError as error:
        return "failed", f"{cache}: cannot be written: {error.strerror}"


def _not_for(artifact: Artifact, target: Platform) -> str | None:
    """Why TensorRT builds nothing from an artifact."""
    if artifact.format != "onnx":
        return f"its format, {artifact.format}, is for another runtime"
    if artifact.precision == "int8" and target.flavour == "tensorrt_rtx":
        return "TensorRT for RTX has no convolutions in int8"
    return None


def _build(path: Path, artifact: Artifact, cache: Path, trt: Any, target: Platform, options: Options) -> str:
    """Build an engine into the cache; a line that tells of it."""
    started = time.monotonic()
    rtx = target.flavour == "tensorrt_rtx"
    cache.mkdir(parents=True, exist_ok=True)
    engine = tensorrt.build(
        trt,
        path,
        options,
        compute_capability=target.compute_capability if rtx else None,
        timing=None if rtx else engine_cache.timing_file(cache, target),  # RTX times nothing when it builds
    )
    fusion = _fusion(trt, engine, path, rtx)
    plan = Plan.of(
        engine.content,
        artifact,
        target,
        options.batches,
        version_compatible=options.version_compatible,
        # An engine of RTX is finished by the runtime, on the GPU that it then has.
        hardware="compute-capability" if rtx else options.hardware,
        fusion=fusion,
    )
    engine_cache.write(cache, plan, engine.content)
    fused = (
        "fusion not known" if fusion is None else f"{fusion.fused} of {fusion.residual_adds} residual additions fused"
    )
    return f"{plan.name}, {len(engine.content) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s, {fused}"


def _fusion(trt: Any, engine: Engine, path: Path, rtx: bool) -> FusionReport | None:
    """None where TensorRT describes its layers in another way than is known."""
    try:
        return read_log(engine.layers, path) if rtx else read_inspection(tensorrt.inspect(trt, engine), path)
    except UnreadableInspection:
        return None


def parse_batches(text: str) -> tuple[BatchRange, ...]:
    """Profiles of "1,2-8,9-32", each best at its largest batch.

    Raises:
        ValueError: it is not written so.
    """
    ranges = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(f"batches are written as 1,2-8,9-32, not {text!r}")
        smallest, largest = int(found["smallest"]), int(found["largest"] or found["smallest"])
        ranges.append(BatchRange(min=smallest, opt=largest, max=largest))
    return tuple(ranges)
