"""Views, figures and report of `resnet-evaluate`, against numbers by hand and one view at a time."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from models import architectures
from models.cli.app import app
from models.data.dataset import ArrayDataset
from models.evaluation.metrics import Evaluation
from models.evaluation.predict import predict_probabilities, score
from models.evaluation.views import Views, ViewsError, ten_crops, whole
from models.imaging.preprocess import Geometry
from models.training.evaluate import normalise, predict
from tests.support.networks import make_checkpoint


def test_figures_by_hand() -> None:
    probabilities = np.asarray([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]], np.float32)
    found = Evaluation(("a", "b", "c"), np.asarray([0, 1, 2, 0]), probabilities, k=2)
    assert (found.top1, found.top_k) == (0.5, 1.0)
    assert found.confusion.tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert found.negative_log_likelihood == pytest.approx(-np.log([0.8, 0.3, 0.6, 0.1]).mean())
    assert found.brier_score == pytest.approx((0.06 + (0.25 + 0.49 + 0.04) + 0.24 + (0.81 + 0.01 + 0.64)) / 4)
    # Two images at 0.8 with accuracy 0.5, one wrong at 0.5, one right at 0.6.
    assert found.calibration_error == pytest.approx((2 * 0.3 + 0.5 + 0.4) / 4)
    first = found.per_class[0]
    assert (first["precision"], first["recall"], first["f1"], first["support"]) == (0.5, 0.5, 0.5, 2)
    assert found.per_class[1]["precision"] == 0
    assert found.mistakes.tolist() == [3, 1]


def test_ten_crops_are_those_of_krizhevsky_2012() -> None:
    """Of an image of coordinates: corners and centre of the resized image, each followed by its mirror."""
    rows, columns = np.mgrid[:12, :16]
    image = Image.fromarray(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8))
    crops = ten_crops(image, Geometry(size=(8, 8), resize=12))
    assert [tuple(crop[0, 0, :2]) for crop in crops[::2]] == [(0, 0), (0, 8), (4, 0), (4, 8), (2, 4)]
    for crop, mirror in zip(crops[::2], crops[1::2], strict=True):
        np.testing.assert_array_equal(mirror, crop[:, ::-1])
    # Without a margin, a black one is added: 28 / 32 is 224 / 256.
    white = Image.fromarray(np.full((28, 28), 255, np.uint8))
    padded = ten_crops(white, Geometry(size=(28, 28), mode="L"))
    assert [(int(crop[:2].max()), int(crop[-2:].max())) for crop in padded[::4]] == [(0, 255), (255, 0), (255, 255)]


def test_whole_image_is_scored_at_every_position() -> None:
    """Against the classifier applied to each position of the pool; at the training size, against the network."""
    made = make_checkpoint("tiny")
    model, preprocess = made.model(), made.preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 72, 3), np.uint8)
    with torch.inference_mode():
        features = model.features(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), preprocess))
        window = 16  # of the feature map of 32 x 32 pixels
        places = [
            model.classifier(features[:, :, top : top + window, left : left + window].mean((2, 3)))
            for top in range(features.shape[2] - window + 1)
            for left in range(features.shape[3] - window + 1)
        ]
    assert len(places) == 9 * 21
    torch.testing.assert_close(score(model, pixels, preprocess), torch.stack(places).mean(0), atol=1e-4, rtol=1e-4)
    small = np.ascontiguousarray(pixels[:, :32, :32])
    torch.testing.assert_close(score(model, small, preprocess), predict(model, small, preprocess), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("views", [Views(10), Views(1, (32, 40))])
def test_probabilities_of_views_are_averaged(views: Views) -> None:
    made = make_checkpoint("tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    data = ArrayDataset("noise", made.labels, np.zeros(3, np.int64), pixels, made.preprocess)
    found = predict_probabilities(made.model(), data, made.preprocess, views)
    for row in range(3):
        seen = views.of(Image.fromarray(pixels[row]), made.preprocess)
        assert len(seen) == (10 if views.crops == 10 else 4)
        each = [
            F.softmax(score(made.model(), np.ascontiguousarray(view[None]), made.preprocess), 1).numpy()
            for view in seen
        ]
        np.testing.assert_allclose(found[row], np.mean(each, 0)[0], atol=1e-6)


def test_views_that_cannot_be_made_are_refused_and_long_images_are_bounded() -> None:
    geometry = Geometry(size=(32, 32), resize=36)
    with pytest.raises(ViewsError, match="scale 24 is smaller than the network's crop: give 32 or more"):
        Views(1, (24, 32)).check(geometry)
    with pytest.raises(ViewsError, match="exclude each other"):
        Views(10, (32,)).check(geometry)
    assert whole(Image.new("RGB", (5000, 10)), geometry, 32).shape == (32, 128, 3)


@pytest.mark.slow
def test_command_writes_json_and_a_report(tmp_path: Path) -> None:
    names = ("a$b", "<b>", "c")
    for name in names:
        folder = tmp_path / "data" / "test" / name
        folder.mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)).save(
                folder / f"{index}.png"
            )
    for file, seed in (("one", 0), ("two", 1)):
        made = make_checkpoint("tiny", classes=3, seed=seed)
        made = type(made)(made.architecture, names, made.preprocess, made.weights)
        made.save(tmp_path / file)
    options = ["--data", str(tmp_path / "data"), "--json", "--report", str(tmp_path / "report"), "--top-k", "2"]
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "one"), str(tmp_path / "two"), *options])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert document["images"] == 9
    assert np.asarray(document["confusion"]).sum() == 9
    assert [part["label"] for part in document["classes"]] == list(names)
    assert {"top1", "top2", "calibration_error", "brier_score"} <= document.keys()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page
    wrong = list(csv.reader((tmp_path / "report" / "mistakes.csv").read_text().splitlines()))[1:]
    assert len(wrong) == 9 - round(9 * document["top1"])
    make_checkpoint("tiny", classes=3).save(tmp_path / "other")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "one"), str(tmp_path / "other"), *options])
    assert (result.exit_code, "has other classes than" in result.stderr) == (2, True)


def test_classes_are_shown_as_they_are(tmp_path: Path) -> None:
    """Brackets are no markup of the console."""
    labels = ("[red]rose", "shoe [men]", "shoe [women]")
    made = replace(make_checkpoint("tiny"), labels=labels)
    made = replace(made, architecture=made.architecture.model_copy(update={"num_classes": 3}))
    network = architectures.build("tiny", 3)
    replace(made, weights=network.state_dict()).save(tmp_path / "checkpoint")
    for label in labels:
        (tmp_path / "data" / "test" / label).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "data" / "test" / label / "1.png")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "checkpoint"), "--data", str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    for label in labels:
        assert label in result.output


@pytest.mark.parametrize("option", ["--report", "--confusion"])
def test_results_that_cannot_be_written_are_refused_before_anything_is_read(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ["evaluate", str(tmp_path / "missing"), "--data", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, option, str(tmp_path / "file" / "result.png")])
    assert (result.exit_code, str(tmp_path / "file") in result.output) == (2, True)
    assert "missing" not in result.output
