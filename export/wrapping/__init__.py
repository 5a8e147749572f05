"""Imports an ONNX classifier of another project as a version of a model.

If the graph before the logits has pooled features and a last feature map, they become outputs; otherwise the version
lacks them. The written file is compared with the original one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import ModelProto

from export import samples
from export.complexity import count_multiply_adds
from export.errors import BuildError, ForeignWeights
from export.formats import onnx as onnx_format
from export.importing.labels import resolve_labels
from export.provenance import tools
from export.quantization.artifacts import write_int8
from export.quantization.search import Selection
from export.samples import Samples
from export.staging import staged_version
from export.verify import OnnxRunner
from export.version import ArtifactValidator, describe_version
from export.wrapping.graph import Original, Wrapped, check_operators, read, wrap
from export.wrapping.pixels import Pixels, input_preprocess, is_bgr
from export.wrapping.reference import original_values, wrapped_probabilities
from export.wrapping.residual import residual_graph, to_float16
from export.wrapping.values import check_probabilities, find_meaning, logits_of
from models.artifact import manifest
from models.artifact.manifest import OUTPUTS, Architecture, Artifact
from models.artifact.parity import Float32Array, ParityError
from models.data import DataError
from models.imaging.preprocess import Preprocess
from models.memory_limit import limited_memory
from models.runtime.onnxruntime import ort
from models.training.checkpoint import Checkpoint
from models.validation import first_line


@dataclass(frozen=True)
class ImportedVersion:
    """An imported version, and the parts that it lacks."""

    version: Path
    absent: tuple[str, ...]
    """Outputs that it lacks."""
    maps: bool
    """Whether it has class activation maps."""


@dataclass(frozen=True)
class OnnxOptions:
    """Choices of a user that a file does not tell."""

    labels: Path | None = None
    """Names of the classes. Default: ImageNet-1k's, for 1,000 classes."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of `Preprocess`."""
    pixels: Pixels | None = None
    """Values of the pixels that the network takes. Default: torch."""
    bgr: bool = False
    """Whether it takes the channels in the order blue, green, red."""
    logits: str | None = None
    """Name of the output with the logits or probabilities. Default: the only one."""
    data: Path | None = None
    """Data set for comparison and accuracy. Default: shipped photographs."""
    by_position: bool = False
    """Match the classes of the data set by their order, not by their names."""
    float16: bool = False
    int8: bool = False
    """Also write files in these precisions."""


def import_onnx(path: Path, repository: Path, name: str, options: OnnxOptions | None = None) -> ImportedVersion:
    """Write the next version of a model from an ONNX file.

    Args:
        path: ONNX file with images as input, [N, C, H, W] or [N, H, W, C], normalised or whole numbers, and logits or
            probabilities as output.
        repository: folder of models; created if it does not exist.
        name: name of the model in the repository.
        options: choices of the user.

    Raises:
        ForeignWeights: the file is no such classifier, or needs further options.
        BuildError: the graph has operators of a single runtime, or the version cannot be written.
        DataError: the data set is no usable one, or has other classes.
        ParityError: the written file computes other logits than the original.
    """
    try:
        return _import(path, repository, name, options or OnnxOptions())
    except (BuildError, DataError, ParityError, OSError):
        raise
    except Exception as error:  # onnx and the runtimes raise errors of any class for unusual graphs
        raise ForeignWeights(f"{path}: cannot be imported: {first_line(error)}") from error


@dataclass(frozen=True)
class _Understood:
    """A classifier, its graph in the signature of all graphs, and its logits for the shipped photographs."""

    original: Original
    wrapped: Wrapped
    preprocess: Preprocess
    reference: Float32Array
    names: tuple[str, ...]


def _understand(path: Path, options: OnnxOptions) -> _Understood:
    original = replace(read(path, options.logits), bgr=options.bgr or is_bgr(options.pixels))
    preprocess = input_preprocess(path, original.input, options.pixels, options.preprocess)
    photographs = samples.photographs(preprocess)
    values = original_values(path, original, preprocess, photographs)
    head, reference = find_meaning(path, original.head, values)
    original = replace(original, head=head)
    wrapped = wrap(original, preprocess)
    check_operators(path, wrapped.model)
    check_probabilities(path, wrapped_probabilities(path, original, wrapped, photographs), values)
    names, _ = resolve_labels(path, reference.shape[1], options.labels)
    return _Understood(original, wrapped, preprocess, reference, names)


def _import(path: Path, repository: Path, name: str, options: OnnxOptions) -> ImportedVersion:
    with limited_memory():
        found = _understand(path, options)
    original, wrapped, preprocess, names = found.original, found.wrapped, found.preprocess, found.names
    reference = found.reference
    residual = residual_graph(path, wrapped.model) if options.float16 or options.int8 else None
    architecture = Architecture(
        name="onnx",
        num_classes=len(names),
        in_channels=original.input.channels,
        multiply_adds=count_multiply_adds(wrapped.model),
    )
    used = _samples(preprocess, architecture, names, options)
    if options.data is not None:
        reference = logits_of(original.head, original_values(path, original, preprocess, used.parity))
    validator = ArtifactValidator(used, reference, allow_unfused=True, outputs=wrapped.outputs)
    with staged_version(repository / name) as (folder, number):
        onnx_format.save(wrapped.model, folder / "model.onnx")
        artifacts = [validator.describe(folder / "model.onnx", "onnx", "float32")]
        if residual is not None:
            artifacts += _write_lower(residual, folder, used, options, validator)
        describe_version(
            folder,
            used.parity,
            reference,
            original.head.classifier,
            name=name,
            version=number,
            architecture=architecture,
            labels=names,
            preprocess=preprocess,
            artifacts=tuple(artifacts),
            outputs=wrapped.outputs,
            provenance=_provenance(path, original),
        )
    absent = tuple(output for output in OUTPUTS if output not in wrapped.outputs)
    return ImportedVersion(repository / name / str(number), absent, original.head.classifier is not None)


def _samples(
    preprocess: Preprocess, architecture: Architecture, names: tuple[str, ...], options: OnnxOptions
) -> Samples:
    """Images of the data set; without one, the shipped photographs."""
    described = Checkpoint(architecture, names, preprocess, {})
    return samples.find(described, options.data, options.by_position)


def _write_lower(
    residual: ModelProto, folder: Path, used: Samples, options: OnnxOptions, validator: ArtifactValidator
) -> list[Artifact]:
    """Write the files in half precision and int8."""
    artifacts = []
    if options.float16:
        onnx_format.save(to_float16(residual), folder / "model.fp16.onnx")
        artifacts.append(validator.describe(folder / "model.fp16.onnx", "onnx", "float16"))
    if options.int8:
        with TemporaryDirectory() as other:
            source = Path(other) / "model.onnx"
            onnx_format.save(residual, source)
            selection = Selection(used.selection, OnnxRunner(source).logits(used.selection), used.selection_labels)
            artifacts += write_int8(source, folder, used.calibration, selection, validator)
    return artifacts


def _provenance(path: Path, original: Original) -> dict[str, object]:
    order = "bgr" if original.bgr else "rgb"
    return {
        "imported": {"layout": "onnx", "file": path.name, "sha256": manifest.sha256(path), "channels": order},
        "tools": tools(onnx, ort),
    }
