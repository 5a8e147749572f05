"""Prints a version of a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.artifact import manifest
from models.artifact.manifest import Architecture, Artifact, EnsembleMember, Manifest, Quantization
from models.artifact.parity import bounded_error
from models.console import printable


def print_version(version: Path, console: Console) -> None:
    """Print the manifest of a version.

    Raises:
        ManifestError: the manifest cannot be read.
    """
    described = manifest.read(version)
    arch, preprocess = described.architecture, described.preprocess
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))

    def add(name: str, value: str) -> None:
        facts.add_row(name, Text(printable(value)))

    add("model", f"{described.name}, version {described.version}")
    add("architecture", _architecture(arch))
    for member in described.members:
        add("  member", f"{_architecture(member.architecture)}, temperature {_temperature(member)}")
    add("classes", f"{arch.num_classes}: {_shortened(described.labels)}")
    add("input", f"{preprocess.size[0]} x {preprocess.size[1]} {preprocess.mode}")
    add("temperature", "that of each member" if described.members else _temperature(described))
    add("trained on", str(described.provenance.get("dataset") or "not recorded"))
    add("folder", str(version.relative_to(Path.cwd()) if version.is_relative_to(Path.cwd()) else version))
    console.print(facts, highlight=False, soft_wrap=True)

    table = Table("file", "precision", "size", "logit error", "agreement", "top-1")
    for artifact in described.files:
        table.add_row(*_row(artifact, version))
    console.print(table)
    if described.lesion is not None:
        count = len(described.lesion.blocks)
        console.print(
            f"{described.lesion.artifact.file}: any of {count} blocks can be deleted", highlight=False, markup=False
        )
    if accuracy := next((artifact.accuracy for artifact in described.artifacts if artifact.accuracy), None):
        apart = " that no choice was made on" if _fitted(described) else ""
        console.print(f"top-1 on {accuracy.images:,} test images{apart}", highlight=False)
    for artifact in described.artifacts:
        for runtime, report in artifact.fusion.items():
            console.print(
                f"{artifact.file}: {runtime} computes {report.fused} of {report.residual_adds} residual additions "
                "inside convolutions",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
            for reason, count in Counter(each.reason for each in report.unfused).items():
                console.print(f"  {count} not: {printable(reason)}", highlight=False, soft_wrap=True, markup=False)
        if artifact.quantization is not None:
            console.print(
                _how_quantized(artifact.file, artifact.quantization), highlight=False, soft_wrap=True, markup=False
            )


def _architecture(arch: Architecture) -> str:
    return " ".join([arch.name, *(f"{key}={value}" for key, value in arch.options.items())])


def _temperature(described: Manifest | EnsembleMember) -> str:
    """The temperature, and the images that justify it."""
    value, fit = f"{described.temperature:.3g}", described.temperature_fit
    if fit is None:
        return (
            f"{value}, not fitted" if described.temperature == 1 else f"{value}, fitted on images that are not recorded"
        )
    wrong = f"{fit.errors:,} of {fit.images:,} {fit.source} are misclassified"
    # Without enough errors nothing justifies higher probabilities.
    refused = fit.likeliest < described.temperature
    return f"{value}, not {fit.likeliest:.2g}: only {wrong}" if refused else f"{value}: {wrong}"


def _fitted(described: Manifest) -> bool:
    return any(fit for fit in (described.temperature_fit, *(member.temperature_fit for member in described.members)))


def _row(artifact: Artifact, version: Path) -> list[str]:
    parity, accuracy = artifact.parity, artifact.accuracy
    size = (version / artifact.file).stat().st_size
    return [
        artifact.file,
        artifact.precision,
        f"{size / 1e6:.1f} MB",
        f"{bounded_error(parity, artifact.precision):.1e}" if parity else "-",
        f"{parity.top1_agreement:.1%}" if parity else "-",
        f"{accuracy.top1:.2%}" if accuracy else "-",
    ]


def _how_quantized(file: str, how: Quantization) -> str:
    kept = f"{len(how.float_layers)} layers stayed in float" if how.float_layers else "all layers are rounded"
    return (
        f"{file}: ranges by {how.calibration}, {kept}, chosen in {how.trials} trials on {how.selection_images} images"
    )


def _shortened(labels: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(labels[:most]) + (", …" if len(labels) > most else "")
