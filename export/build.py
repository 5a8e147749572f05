"""From a checkpoint to one version of a model repository, checked before anyone can see it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np

from export import fusion, samples
from export.formats import onnx as onnx_format
from export.graph import ServingGraph
from export.verify import OnnxRunner, check_parity, measure_accuracy
from models import checkpoint, classifier, golden, manifest
from models.checkpoint import Checkpoint
from models.classifier import Classifier
from models.data import Dataset, load
from models.evaluate import predict
from models.manifest import Artifact, Manifest
from models.parity import Float32Array
from models.preprocess import UInt8Array

PARITY_IMAGES = 512
GOLDEN_IMAGES = 16


class BuildError(ValueError):
    """The version cannot be written; the message is one line that says why."""


def build(
    checkpoint_path: Path, repository: Path, name: str, data: Path | None = None, *, allow_unfused: bool = False
) -> Path:
    """Write the next version of a model and return its folder.

    The version appears whole or not at all: it is written and checked in a hidden folder, then renamed.

    Args:
        checkpoint_path: safetensors file that `resnet-train` wrote.
        repository: folder of models; made if it is not there.
        name: name of the model in the repository.
        data: folder of a data set; its test split, brought to the checkpoint's geometry, is compared on and measures
            accuracy. Shipped photographs without it.
        allow_unfused: write the version even where a runtime leaves a residual addition outside its convolutions.

    Raises:
        CheckpointError: the file is no usable checkpoint, or not one for the data set's classes.
        DataError: the folder is no usable data set.
        ParityError: what was written does not compute what the checkpoint computes.
        BuildError: an addition is not fused, or the folder cannot be written.
    """
    trained = checkpoint.load(checkpoint_path)
    model = trained.model()
    test = None if data is None else load(data, "test", trained.preprocess)
    if test is not None:
        trained.check_classes(test.classes)
    images = samples.photographs(trained.preprocess) if test is None else samples.from_dataset(test, PARITY_IMAGES)
    logits = np.concatenate(
        [predict(model, images[first : first + 64], trained.preprocess).numpy() for first in range(0, len(images), 64)]
    )

    with _staged_version(repository / name) as (folder, number):
        onnx_path = folder / "model.onnx"
        onnx_format.write(ServingGraph(model, trained.preprocess), trained.preprocess, onnx_path)
        artifact = describe(onnx_path, images, logits, test)
        if not allow_unfused:
            check_fused(artifact)
        chosen = np.linspace(0, len(images) - 1, min(GOLDEN_IMAGES, len(images))).astype(np.int64)
        golden.write(folder / manifest.GOLDEN_FILE, images[chosen], logits[chosen])
        last = model.classifier
        weights = Classifier(last.weight.detach().numpy(), last.bias.detach().numpy())
        classifier.write(folder / manifest.CLASSIFIER_FILE, weights)
        described = Manifest(
            schema=manifest.SCHEMA,
            name=name,
            version=number,
            architecture=trained.architecture,
            labels=trained.labels,
            preprocess=trained.preprocess,
            artifacts=(artifact,),
            golden_sha256=manifest.sha256(folder / manifest.GOLDEN_FILE),
            classifier_sha256=manifest.sha256(folder / manifest.CLASSIFIER_FILE),
            provenance=provenance(trained, checkpoint_path),
        )
        (folder / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
    return repository / name / str(number)


def describe(path: Path, images: UInt8Array, logits: Float32Array, data: Dataset | None) -> Artifact:
    """Run an ONNX file and write down what it is, what it fuses and how good it is."""
    runner = OnnxRunner(path)
    return Artifact(
        file=path.name,
        format="onnx",
        precision="float32",
        sha256=manifest.sha256(path),
        parity=check_parity(runner, images, logits, "float32"),
        fusion={"onnxruntime-cpu": fusion.onnxruntime_cpu(path)},
        accuracy=None if data is None else measure_accuracy(runner, data),
    )


def check_fused(artifact: Artifact) -> None:
    """Raises BuildError where a runtime that can fuse residual additions left one outside its convolutions."""
    for runtime, report in artifact.fusion.items():
        if report.unfused:
            first = report.unfused[0]
            raise BuildError(
                f"{artifact.file}: {runtime} leaves {len(report.unfused)} of {report.residual_adds} residual additions "
                f"unfused, the first {first.node}: {first.reason}; --allow-unfused writes the version all the same"
            )


def provenance(trained: Checkpoint, path: Path) -> dict[str, object]:
    tools = {package: installed_version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")}
    return {
        "checkpoint_sha256": manifest.sha256(path),
        "dataset": trained.training.get("dataset"),
        "training": {key: value for key, value in trained.training.items() if key != "dataset"},
        "tools": {"python": platform.python_version(), **tools},
    }


@contextmanager
def _staged_version(model: Path) -> Iterator[tuple[Path, int]]:
    """A hidden folder to write the next version in; renamed at the end, removed on any error."""
    try:
        model.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=model))
    except OSError as error:
        raise BuildError(f"{model}: cannot be written: {error.strerror}") from error
    try:
        number = 1 + max((int(path.name) for path in model.iterdir() if path.name.isdecimal()), default=0)
        yield staging, number
        staging.chmod(0o755)
        for path in staging.iterdir():
            _sync(path)
        os.rename(staging, model / str(number))
        _sync(model)
    except OSError as error:
        raise BuildError(f"{model}: the version could not be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(model.iterdir()):
            model.rmdir()


def _sync(path: Path) -> None:
    """Have the disk keep it before the version becomes visible."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
