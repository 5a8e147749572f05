"""Writes the model card of a version: Markdown with the header that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.artifact import manifest
from models.artifact.manifest import Artifact, Manifest
from models.artifact.parity import bounded_error

_SHOWN_LABELS = 20
_MAX_ENTRIES = 50
"""Entries of the provenance; other programs write manifests, too."""
_MAX_CHARACTERS = 500
"""Of one value."""


def model_card(version: Path) -> str:
    """The card of a version.

    Raises:
        ManifestError: the manifest cannot be read.
        OSError: a file of the version is missing.
    """
    return make_card(manifest.read(version), version)


def make_card(described: Manifest, version: Path) -> str:
    """The card of a version whose manifest was read.

    Raises:
        OSError: a file of the version is missing.
    """
    sections = {
        "": _introduction(described),
        "Data": _data(described),
        "Accuracy": _accuracy(described),
        "Calibration": _calibration(described),
        "Preprocessing": _preprocessing(described),
        "Files": _files(described, version),
        "Residual additions": _fusion(described),
        "Licence": [_licence(described) or "No licence is stated."],
        "Provenance": _provenance(described),
    }
    lines = [*_header(described), "", f"# {described.name}, version {described.version}"]
    for title, content in sections.items():
        lines += [*(["", f"## {title}"] if title else []), "", *content]
    return "\n".join(lines) + "\n"


def _imported(described: Manifest) -> Mapping[str, Any]:
    """The record of an import; empty for a network of this project."""
    training = described.provenance.get("training")
    inner = training.get("imported") if isinstance(training, dict) else None
    found = described.provenance.get("imported") or inner
    return found if isinstance(found, dict) else {}


def _licence(described: Manifest) -> str | None:
    licence = _imported(described).get("licence")
    return None if licence is None else _text(licence)


def _header(described: Manifest) -> Iterator[str]:
    yield "---"
    # A hub takes identifiers only: apache-2.0 of "apache-2.0 (README.md)".
    identifier = re.match(r"[a-z0-9][a-z0-9.-]*(?= \(|$)", str(_imported(described).get("licence", "")))
    if identifier:
        yield f"license: {identifier[0]}"
    yield "pipeline_tag: image-classification"
    yield from ("tags:", "- onnx", "- resnet", "- image-classification", "---")


def _introduction(described: Manifest) -> list[str]:
    arch = described.architecture
    options = "".join(f", {key} {value}" for key, value in arch.options.items())
    work = f", {arch.multiply_adds / 1e9:.2f} billion multiply-adds per image" if arch.multiply_adds else ""
    names = ", ".join(map(_text, described.labels[:_SHOWN_LABELS]))
    more = f" and {arch.num_classes - _SHOWN_LABELS} more" if arch.num_classes > _SHOWN_LABELS else ""
    return [
        f"An image classifier for {arch.num_classes} classes: {_text(arch.name)}{_text(options)}{work}.",
        "",
        f"The classes are {names}{more}.",
        "",
        "`resnet-serve --repository FOLDER` serves the repository that holds it.",
    ]


def _data(described: Manifest) -> list[str]:
    imported, dataset = _imported(described), described.provenance.get("dataset")
    if imported:
        commit = f", commit {_text(imported['commit'])}" if "commit" in imported else ""
        where = _text(imported.get("source") or imported.get("file") or "a file")
        return [f"Imported from {where}{commit}. The training data are described there."]
    return [f"Trained on {_text(dataset)}." if dataset else "The training data are not recorded."]


def _accuracy(described: Manifest) -> list[str]:
    measured = [(each, each.accuracy) for each in described.artifacts if each.accuracy is not None]
    if not measured:
        return ["Not measured: the version was built without a data set."]
    rows = [
        f"| {each.file} | {each.precision} | {found.top1:.2%} | "
        f"{'-' if found.top5 is None else f'{found.top5:.2%}'} | {found.images:,} |"
        for each, found in measured
    ]
    return ["| file | precision | top-1 | top-5 | test images |", "|---|---|--:|--:|--:|", *rows]


def _calibration(described: Manifest) -> list[str]:
    fit = described.temperature_fit
    how = f"fitted on {fit.images:,} {_text(fit.source)}" if fit else "not fitted"
    lines = [f"Probabilities are softmax(logits / {described.temperature:.3g}); the temperature is {how}."]
    errors = {
        each.file: each.accuracy.calibration_error
        for each in described.artifacts
        if each.accuracy is not None and each.accuracy.calibration_error is not None
    }
    if errors:
        shown = ", ".join(f"{value:.4f} ({file})" for file, value in errors.items())
        lines += ["", f"Expected calibration error: {shown}."]
    return lines


def _preprocessing(described: Manifest) -> list[str]:
    values = described.preprocess
    return [
        f"Images in mode {values.mode}: {values.in_words()}. The graphs take uint8 [N, {values.size[0]}, "
        f"{values.size[1]}, {values.channels}] and normalise it themselves."
    ]


def _files(described: Manifest, version: Path) -> list[str]:
    rows = [_row(each, version) for each in described.files]
    return ["| file | precision | size | logit error | agreement |", "|---|---|--:|--:|--:|", *rows]


def _row(artifact: Artifact, version: Path) -> str:
    size, parity = (version / artifact.file).stat().st_size, artifact.parity
    compared = f"{bounded_error(parity, artifact.precision):.1e} | {parity.top1_agreement:.1%}" if parity else "- | -"
    return f"| {artifact.file} | {artifact.precision} | {size / 1e6:.1f} MB | {compared} |"


def _fusion(described: Manifest) -> list[str]:
    lines = [
        f"- {each.file}: {runtime} computes {report.fused} of {report.residual_adds} inside convolutions"
        for each in described.artifacts
        for runtime, report in each.fusion.items()
    ]
    return lines or ["Not examined."]


def _provenance(described: Manifest) -> list[str]:
    record = {**_imported(described), "checkpoint SHA-256": described.provenance.get("checkpoint_sha256")}
    tools = described.provenance.get("tools")
    if isinstance(tools, dict):
        record["tools"] = ", ".join(f"{name} {version}" for name, version in tools.items())
    lines = [f"- {_text(name)}: {_text(value)}" for name, value in record.items() if value and name != "licence"]
    return lines[:_MAX_ENTRIES]


def _text(value: object) -> str:
    """A value as text in Markdown: files from elsewhere name it, and it stays on its line."""
    line = " ".join(str(value).split())
    shown = line if len(line) <= _MAX_CHARACTERS else line[:_MAX_CHARACTERS] + " …"
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", shown)
