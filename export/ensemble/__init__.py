"""From several checkpoints to one version, whose graph averages their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxscript
import torch

from export import samples
from export.build import network_fields
from export.ensemble import graph
from export.ensemble.members import Member, ensemble_logits, load_members
from export.formats import onnx as onnx_format
from export.graph import ServingGraph
from export.provenance import tools
from export.quantization.artifacts import write_int8
from export.quantization.search import Selection
from export.staging import staged_version
from export.version import ArtifactValidator, describe_version
from models.artifact import manifest
from models.artifact.manifest import Architecture, EnsembleMember
from models.runtime.onnxruntime import ort


def build_ensemble(
    paths: Sequence[Path],
    repository: Path,
    name: str,
    data: Path | None = None,
    *,
    float16: bool = False,
    int8: bool = False,
    allow_unfused: bool = False,
    by_position: bool = False,
) -> Path:
    """Write the next version of a model, which averages the probabilities of several networks; gives its folder.

    The answer is the average of the answers that the members give on their own: each has the temperature that `build`
    chooses for it with the same data. Choices for the ensemble are made on images that no member was trained on.

    Args:
        paths: safetensors files of `resnet-train`, two or more, with the same classes and geometry.
        repository, name, data, float16, int8, allow_unfused, by_position: as for `build`.

    Raises:
        BuildError: the members do not fit together, an addition is not fused, or the folder cannot be written.
        CheckpointError, DataError, ParityError: as for `build`.
    """
    members = load_members(paths, data, by_position)
    used = samples.find(members[0].trained, data, by_position, [member.trained for member in members[1:]])
    validator = ArtifactValidator(used, ensemble_logits(members, used.parity), allow_unfused, graph.OUTPUTS)
    with staged_version(repository / name) as (folder, number):
        _write(members, folder / "model.onnx", torch.float32)
        artifacts = [validator.describe(folder / "model.onnx", "onnx", "float32")]
        if float16:
            _write(members, folder / "model.fp16.onnx", torch.float16)
            artifacts.append(validator.describe(folder / "model.fp16.onnx", "onnx", "float16"))
        if int8:
            selection = Selection(used.selection, ensemble_logits(members, used.selection), used.selection_labels)
            artifacts += write_int8(folder / "model.onnx", folder, used.calibration, selection, validator)
        describe_version(
            folder,
            used.parity,
            validator.logits,
            None,
            name=name,
            version=number,
            **_fields(members),
            artifacts=tuple(artifacts),
            outputs=graph.OUTPUTS,
            provenance=_provenance(members),
        )
    return repository / name / str(number)


def _write(members: Sequence[Member], path: Path, dtype: torch.dtype) -> None:
    models = []
    with TemporaryDirectory() as folder:
        for member in members:
            single = ServingGraph(member.model, member.trained.preprocess, member.temperature, dtype)
            onnx_format.write(single, member.trained.preprocess, Path(folder) / "member.onnx")
            models.append(onnx.load(Path(folder) / "member.onnx"))
    onnx_format.save(graph.average(models), path)


def _fields(members: Sequence[Member]) -> dict[str, Any]:
    """The fields of the manifest about network and preprocessing."""
    described = tuple(
        EnsembleMember(
            architecture=network_fields(member.trained, member.model)["architecture"],
            preprocess=member.trained.preprocess,
            temperature=member.temperature,
            temperature_fit=member.fit,
        )
        for member in members
    )
    first = members[0].trained
    architecture = Architecture(
        name="ensemble",
        num_classes=len(first.labels),
        in_channels=first.preprocess.channels,
        multiply_adds=sum(member.architecture.multiply_adds or 0 for member in described),
    )
    return {
        "architecture": architecture,
        "labels": first.labels,
        "preprocess": first.preprocess,
        "members": described,
    }


def _provenance(members: Sequence[Member]) -> dict[str, object]:
    datasets = dict.fromkeys(member.trained.training.get("dataset") for member in members)
    return {
        "dataset": ", ".join(name or "not recorded" for name in datasets),
        "members": [
            {"checkpoint_sha256": manifest.sha256(member.path), "training": member.trained.training}
            for member in members
        ],
        "tools": tools(torch, onnx, onnxscript, ort),
    }
