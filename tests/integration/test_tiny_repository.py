"""The data of the network `tiny` is what its script makes today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.verify import OnnxRunner
from models.artifact import manifest
from tests.support import tiny
from tests.support.make_tiny_repository import make


def fields(content: Any) -> Any:
    """A manifest without hashes and what was measured: names and structure, and the values of everything else."""
    # A fusion report has an entry per runtime that is installed.
    measured = ("sha256", "parity", "tools", "quantization", "fusion")
    if isinstance(content, dict):
        return {key: None if key.endswith(measured) else fields(value) for key, value in content.items()}
    return [fields(value) for value in content] if isinstance(content, list) else content


@pytest.mark.slow
def test_the_script_makes_the_same_data_again(tmp_path: Path) -> None:
    make(tmp_path)
    stored, made = (folder / tiny.REPOSITORY / "tiny" / "1" for folder in (tiny.FOLDER, tmp_path))
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in stored.iterdir())
    assert fields(manifest.read(made).model_dump(mode="json")) == fields(manifest.read(stored).model_dump(mode="json"))
    with np.load(tiny.FOLDER / tiny.PROBABILITIES) as before, np.load(tmp_path / tiny.PROBABILITIES) as after:
        assert sorted(after) == sorted(before)
        for name in before:
            np.testing.assert_allclose(after[name], before[name], atol=1e-5)
    with np.load(stored / "golden.npz") as before, np.load(made / "golden.npz") as after:
        np.testing.assert_array_equal(after["images"], before["images"])
        np.testing.assert_allclose(after["logits"], before["logits"], atol=1e-4)
        images = before["images"]
    for artifact in manifest.read(stored).artifacts:
        # Roundings to 16 bits and to integers may fall to the other side.
        tolerance = {"float32": 1e-4, "float16": 0.01, "int8": 0.1}[artifact.precision]
        expected, found = (OnnxRunner(version / artifact.file).logits(images) for version in (stored, made))
        np.testing.assert_allclose(found, expected, atol=tolerance)
