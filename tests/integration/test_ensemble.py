"""An ensemble against the average of its eager members: the same answers, every addition fused, misfits refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from export.ensemble import build_ensemble
from export.errors import BuildError
from export.samples import photographs
from export.verify import verify_version
from models.artifact import manifest
from models.artifact.manifest import Precision
from models.training.checkpoint import Checkpoint
from models.training.evaluate import predict
from service import executors
from service.executors.base import compute
from tests.support.networks import make_checkpoint
from tests.support.tiny import source_of

OUTPUTS = frozenset({"logits", "probabilities"})


def members() -> list[Checkpoint]:
    """Two networks of different depth and shortcut, on pixels of different normalisation."""
    first = make_checkpoint("tiny", classes=5, shortcut="D")
    second = make_checkpoint("resnet20", classes=5, seed=3)
    return [first, replace(second, preprocess=second.preprocess.model_copy(update={"mean": (0.4, 0.5, 0.6)}))]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    for name, member in zip("ab", members(), strict=True):
        member.save(folder / name)
    return build_ensemble([folder / "a", folder / "b"], folder / "repository", "both", int8=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "precision", "tolerance"),
    [
        ("onnxruntime-cpu", "float32", 1e-5),
        ("openvino", "float32", 1e-5),
        ("onnxruntime-cpu", "int8", 0.03),
        ("openvino", "int8", 0.03),
    ],
)
def test_answer_is_the_average_of_the_members(
    version: Path, executor: str, precision: Precision, tolerance: float
) -> None:
    images = photographs(manifest.read(version).preprocess)
    expected = np.mean([predict(each.model(), images, each.preprocess).softmax(1).numpy() for each in members()], 0)
    loaded = executors.find(executor).load(source_of(version, executors.find(executor), precision))[0]
    found = compute(loaded, images, OUTPUTS)
    loaded.close()
    np.testing.assert_allclose(found["probabilities"], expected, atol=tolerance)
    np.testing.assert_allclose(np.exp(found["logits"]), found["probabilities"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_every_addition_of_every_member_is_fused(version: Path) -> None:
    described = manifest.read(version)
    float32 = described.artifacts[0]
    for runtime, report in float32.fusion.items():
        assert (report.residual_adds, report.fused) == (2 + 9, 2 + 9), runtime
    assert {parity.top1_agreement >= 0.9 for parity in verify_version(version).values()} == {True}
    assert described.outputs == ("logits", "probabilities")
    shown = CliRunner().invoke(app, ["inspect", str(version)]).stdout
    assert re.search(r"member +resnet20, temperature 1, not fitted", shown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b", "c", "d", "e")}, "has other classes, or in another order, than"),
        ({"size": (24, 24)}, r"has another size \(\(24, 24\), not \(32, 32\)\) than"),
        ({"interpolation": "bicubic"}, "has another interpolation"),
    ],
)
def test_members_that_do_not_fit_together_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    first = make_checkpoint("tiny", classes=5)
    if "labels" in change:
        other = replace(first, **change)  # type: ignore[arg-type]
    else:
        other = replace(first, preprocess=first.preprocess.model_copy(update=change))
    first.save(tmp_path / "a")
    other.save(tmp_path / "b")
    with pytest.raises(BuildError, match=message):
        build_ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "repository", "both")
    with pytest.raises(BuildError, match="two checkpoints or more"):
        build_ensemble([tmp_path / "a"], tmp_path / "repository", "both")
    with pytest.raises(BuildError, match="two members are the same checkpoint"):
        build_ensemble([tmp_path / "a", tmp_path / "a"], tmp_path / "repository", "both")
    assert not (tmp_path / "repository").exists()
