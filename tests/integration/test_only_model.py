"""`only_model`: the repository is the folder of one model, or of one version, as KServe mounts them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from service.core.settings import Settings
from tests.support.service import serve
from tests.support.tiny import FOLDER, PROBABILITIES, renumber

Photographs = list[tuple[str, bytes]]


def mount(source: Path, folder: Path, layout: str) -> Path:
    """Version 1 as the folder itself, or as one of two versions in it."""
    if layout == "version":
        shutil.copytree(source, folder)
        return folder
    for number in (1, 4):
        renumber(shutil.copytree(source, folder / str(number)), number)
    return folder


@pytest.mark.parametrize(("layout", "version"), [("version", "1"), ("versions", "4")])
def test_a_mounted_model_is_served_under_the_given_name(
    layout: str, version: str, tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    folder = mount(tiny_repository / "tiny" / "1", tmp_path / "models", layout)
    name, photograph = photographs[0]
    with serve(Settings(repository=folder, only_model="my-classifier")) as client:
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["my-classifier"]
        answer = client.post("/v1/models/my-classifier/classify?top_k=5", content=photograph).json()
        assert (answer["model"], answer["version"]) == ("my-classifier", version)
        described = client.get("/v2/models/my-classifier").json()
        assert (described["name"], described["versions"]) == ("my-classifier", [version])
    with np.load(FOLDER / PROBABILITIES) as expected:
        highest = expected[name].max()
    assert answer["results"][0]["predictions"][0]["probability"] == pytest.approx(highest, abs=1e-4)


def test_a_version_in_the_wrong_folder_is_refused(tiny_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "models" / "7")
    with serve(Settings(repository=tmp_path / "models", only_model="mine")) as client:
        reasons = client.get("/readyz").json()["reasons"]
    assert len(reasons) == 1
    assert "describes version 1" in reasons[0]


def test_a_damaged_manifest_is_reported(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with serve(Settings(repository=tmp_path, only_model="mine")) as client:
        (reason,) = client.get("/readyz").json()["reasons"]
    assert reason.startswith(f"{tmp_path / 'manifest.json'}: ")
