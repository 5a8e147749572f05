"""ONNX classifiers of other tools: each gives the probabilities of its file, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.samples import photographs
from export.verify import OnnxRunner
from models.artifact import manifest
from models.imaging.preprocess import Preprocess
from models.runtime.onnxruntime import ort
from tests.acceptance.weights.importer import Importer
from tests.acceptance.weights.onnx_files import CLASSES, CLASSIFIERS, SIZE, Classifier
from tests.acceptance.weights.onnx_refusals import REFUSALS

_MAX_MEMORY = 3 * 1024**3


def check() -> tuple[bool, str]:
    """Import each of the files; compare its probabilities on photographs, or read its refusal."""
    wrong: list[str] = []
    worst = 0.0
    importer = Importer()
    with TemporaryDirectory() as base:
        (labels := Path(base) / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
        for name, made in CLASSIFIERS.items():
            with TemporaryDirectory(dir=base) as folder:
                error = _error(importer, name, made, Path(folder), labels)
            worst = max(worst, error / made.tolerance)
            wrong += [] if error <= made.tolerance else [name]
        for name, (write, options, reason) in REFUSALS.items():
            with TemporaryDirectory(dir=base) as folder:
                path = Path(folder) / "a.onnx"
                write(path)
                arguments = _arguments(path, labels, options)
                refused = importer.refuses(name, reason, *arguments, folder=Path(folder))
                wrong += [] if refused and not (Path(folder) / "repository").exists() else [name]
    memory = importer.close()
    wrong += [] if memory < _MAX_MEMORY else [f"{memory / 1e6:.0f} MB"]
    return not wrong, (
        f"{len(CLASSIFIERS)} files give their own probabilities, the worst with {worst:.2f} of its tolerance; "
        f"{len(REFUSALS)} refused in one line; at most {memory / 1e6:.0f} MB; wrong: {wrong or 'none'}"
    )


def _arguments(path: Path, labels: Path, options: tuple[str, ...]) -> list[str]:
    repository = path.parent / "repository"
    return ["import", str(path), "--onnx", "--repository", str(repository), "--name", "m", "--labels", str(labels),
            *options]  # fmt: skip


def _error(importer: Importer, name: str, made: Classifier, folder: Path, labels: Path) -> float:
    """Largest difference of a probability; infinite if the file is refused."""
    path = folder / "a.onnx"
    made.write(path)
    code, text = importer.run(*_arguments(path, labels, made.options))
    if code:
        print(f"  REFUSED  {name}: {text.strip()}", flush=True)
        return float("inf")
    version = folder / "repository" / "m" / "1"
    described = manifest.read(version)
    channels = (0.5,) * made.channels
    geometry = Preprocess(size=(SIZE, SIZE), resize=73, mode=described.preprocess.mode, mean=channels, std=channels)
    images = photographs(geometry)[::2]
    expected = _own(path, made, images)
    found = OnnxRunner(version / "model.onnx").probabilities(images)
    error = float(np.abs(found - expected).max())
    classes = len(set(expected.argmax(1).tolist()))
    print(f"  right    {name}: {error:.1e}, {classes} classes, {', '.join(described.outputs)}", flush=True)
    return error if classes > 1 else float("inf")


def _own(path: Path, made: Classifier, images: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities that the file itself gives, [n, classes]."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    copies = given.shape[0] if isinstance(given.shape[0], int) else 1
    rows = [
        session.run([made.output], {given.name: np.repeat(image[None], copies, 0)})[0][0].reshape(-1)
        for image in made.prepare(images)
    ]
    values = np.stack(rows).astype(np.float64)
    if made.activation == "none":
        return np.asarray(values / values.sum(1, keepdims=True))
    powers = np.exp(values - (values.max(1, keepdims=True) if made.activation == "softmax" else 0))
    return np.asarray(powers / powers.sum(1, keepdims=True))
