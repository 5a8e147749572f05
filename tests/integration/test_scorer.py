"""The scorer for engines such as Ray, Spark and Daft gives the rows of `resnet-classify`."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from models.artifact import manifest
from service.cli.classify import classify
from service.scoring.scorer import Columns, Scorer
from service.scoring.settings import ScoringError
from tests.support.tiny import Eager, Photographs

TOP_K = 2


@pytest.fixture
def files(tmp_path: Path, photographs: Photographs) -> list[str]:
    """Photographs, a file that is no image, and one that does not exist."""
    paths = [tmp_path / f"{number:02}-{name}" for number, (name, _) in enumerate(photographs * 7)]
    for path, (_, data) in zip(paths, photographs * 7, strict=True):
        path.write_bytes(data)
    paths[3].write_bytes(b"no image")
    return [str(path) for path in [*paths, tmp_path / "missing.jpg"]]


@pytest.fixture
def scorer(tiny_repository: Path) -> Iterator[Scorer]:
    scorer = Scorer(str(tiny_repository), threads=1, top_k=TOP_K)
    yield scorer
    scorer.close()


def to_rows(columns: Columns) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_rows_equal_those_of_the_command(files: list[str], scorer: Scorer, tiny_repository: Path) -> None:
    app = typer.Typer()
    app.command()(classify)
    options = ["--repository", str(tiny_repository), "--format", "csv", "--top-k", str(TOP_K)]
    expected = list(
        csv.DictReader(io.StringIO(CliRunner().invoke(app, [*files[:-1], "-", *options], input=files[-1]).stdout))
    )
    rows = to_rows(scorer({"file": files}))
    assert len(rows) == TOP_K * (len(files) - 2) + 2
    for row, other in zip(rows, expected, strict=True):
        assert (row["file"], str(row["rank"]), row["label"], row["error"]) == (
            other["file"],
            other["rank"],
            other["label"],
            other["error"],
        )
        if row["rank"]:
            assert (row["index"], row["probability"]) == (int(other["index"]), np.float32(other["probability"]))
        else:
            assert row["index"] == -1 and math.isnan(row["probability"]) and row["error"]


@pytest.mark.parametrize("column", ["file", "content", "pixels"])
def test_batch_with_names_contents_or_pixels(
    column: str, scorer: Scorer, photographs: Photographs, tiny_repository: Path, eager: Eager, tmp_path: Path
) -> None:
    names, contents = [f"{tmp_path}/{name}" for name, _ in photographs], [data for _, data in photographs]
    batch: dict[str, Any] = {"file": np.array(names, object)}
    if column == "file":
        for name, data in zip(names, contents, strict=True):
            Path(name).write_bytes(data)
    elif column == "content":
        batch["content"] = contents
    else:
        preprocess = manifest.read(tiny_repository / "tiny" / "1").preprocess
        batch["pixels"] = np.stack([preprocess.apply(Image.open(io.BytesIO(data))) for data in contents])
    columns = scorer(batch)
    assert {name: values.dtype for name, values in columns.items()} == {
        "file": object,
        "rank": np.int32,
        "label": object,
        "index": np.int32,
        "probability": np.float32,
        "error": object,
    }
    best = [row for row in to_rows(columns) if row["rank"] == 1]
    assert [row["file"] for row in best] == names
    for row, data in zip(best, contents, strict=True):
        probabilities = eager(data)
        assert row["index"] == probabilities.argmax()
        assert row["label"] == f"class {row['index']}"
        assert row["probability"] == pytest.approx(probabilities.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        ({"file": ["a"], "content": [b""]}, "empty"),
        ({"file": ["a"], "pixels": [np.zeros((2, 3, 3), np.uint8)]}, r"uint8 \[2, 3, 3\], and the network takes"),
        ({"file": ["a"], "pixels": [np.zeros((32, 32, 3), np.float32)]}, "the pixels are float32"),
    ],
)
def test_row_of_a_bad_file(batch: Mapping[str, Any], error: str, scorer: Scorer) -> None:
    (row,) = to_rows(scorer(batch))
    assert (row["file"], row["rank"]) == ("a", 0)
    assert re.search(error, row["error"])


def test_empty_batch(scorer: Scorer) -> None:
    assert {len(values) for values in scorer({"file": []}).values()} == {0}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"version": 7}, "has no such version"),
        ({"executor": "abacus"}, "abacus"),
        ({"model": "other"}, "other"),
        ({"precision": "float15"}, "precision"),
    ],
)
def test_version_that_cannot_be_loaded(options: dict[str, Any], error: str, tiny_repository: Path) -> None:
    with pytest.raises(ScoringError, match=error):
        Scorer(str(tiny_repository), **options)
