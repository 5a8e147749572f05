"""The model card of a version, from the shipped version and from one with a hostile origin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from export.__main__ import app
from models.artifact.card import model_card

SHIPPED = Path(__file__).parents[2] / "models/pretrained/repository/fashion-mnist-resnet20/1"

MODEL = SHIPPED.parent.name


def header(card: str) -> dict[str, object]:
    begin, found, _ = card.split("---\n", 2)
    assert begin == ""
    content = yaml.safe_load(found)
    assert isinstance(content, dict)
    return content


def test_card_of_the_shipped_version() -> None:
    described = json.loads((SHIPPED / "manifest.json").read_bytes())
    card = model_card(SHIPPED)
    assert header(card)["pipeline_tag"] == "image-classification"
    assert "license" not in header(card)
    assert "No licence is stated." in card
    assert "Trained on fashion-mnist." in card
    assert all(label in card for label in described["labels"])
    for artifact in described["artifacts"]:
        accuracy = f"{artifact['accuracy']['top1']:.2%}"
        assert f"| {artifact['file']} | {artifact['precision']} | {accuracy} |" in card
    assert "28 x 28" in card


def test_card_of_imported_weights(tmp_path: Path) -> None:
    """Texts from other files stay texts on their line."""
    version = tmp_path / "model" / "1"
    shutil.copytree(SHIPPED, version)
    described = json.loads((version / "manifest.json").read_bytes())
    imported = {
        "source": "hf-hub:owner/<b>name</b>\n# Title",
        "commit": "0123",
        "licence": "apache-2.0 (README.md)",
    }
    described |= {"name": "model", "provenance": {"training": {"imported": imported}}}
    (version / "manifest.json").write_text(json.dumps(described))
    card = model_card(version)
    assert header(card)["license"] == "apache-2.0"
    assert r"Imported from hf-hub:owner/\<b\>name\</b\> \# Title, commit 0123." in card
    assert "\n# Title" not in card


def test_command_writes_the_card_of_the_newest_version(tmp_path: Path) -> None:
    for number in ("1", "2"):
        shutil.copytree(SHIPPED, tmp_path / MODEL / number)
    (tmp_path / MODEL / "2/manifest.json").write_text(
        (SHIPPED / "manifest.json").read_text().replace('"version": 1', '"version": 2')
    )
    done = CliRunner().invoke(app, ["inspect", "--card", str(tmp_path), "-o", f"{tmp_path}/README.md"])
    assert (done.exit_code, done.output) == (0, "")
    assert f"# {MODEL}, version 2" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--card"], "a card is of one model"), (["-o", "card.md"], "--output is for --card")]
)
def test_unclear_cards_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(SHIPPED, tmp_path / name / "1")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert message in done.output
