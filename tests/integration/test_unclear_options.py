"""Options of `resnet-export` that would have no effect are refused with a message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export.__main__ import app

OUTPUT = ["import", "weights.pth", "-o", "out.safetensors"]
BUILD = ["--repository", "repository", "--name", "m"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*OUTPUT, "--int8"], "--int8: only for a version of a model: give --repository"),
        ([*OUTPUT, "--float16", "--data", "."], "--data, --float16: only for a version"),
        ([*OUTPUT, "--name", "model"], "--name: only for a version"),
        ([*OUTPUT, "--by-position"], "--by-position is for the classes of --data"),
        (["import", "weights.pth", "--repository", "repository", "--by-position"], "--by-position is for the classes"),
        (["build", "a.safetensors", *BUILD, "--by-position"], "--by-position is for the classes of --data"),
        (["ensemble", "a.safetensors", "b.safetensors", *BUILD, "--by-position"], "--by-position is for the classes"),
        (["build", "a.safetensors", "--repository", "repository", "--name", "m\n"], "is no model name"),
        (["inspect", "{tiny}", "--card", "--kernels"], "--card shows no kernels"),
        (["engines", "{tiny}", "--runtime", "cuda", "--version-compatible"], "are for TensorRT, not for cuda"),
        (["engines", "{tiny}", "--runtime", "cuda", "--hardware", "ampere+"], "are for TensorRT, not for cuda"),
        (["engines", "{tiny}", "--runtime", "tensorrt", "--no-measure"], "are for cuda, not for TensorRT"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: list[str], message: str, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [each.format(tiny=tiny_repository) for each in arguments])
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert list(tmp_path.iterdir()) == []


def test_empty_repository_is_named_with_what_to_do(tmp_path: Path) -> None:
    for command in ("inspect", "verify"):
        done = CliRunner().invoke(app, [command, str(tmp_path)])
        assert "holds no exported model: resnet-export build CHECKPOINT --repository FOLDER" in done.output
        assert done.exit_code == 2


def test_newline_at_the_end_of_a_version_is_refused(tiny_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "tiny" / "1\n")
    assert "holds no exported model" in CliRunner().invoke(app, ["inspect", str(tmp_path)]).output


def test_labels_are_shown_as_they_are(tiny_repository: Path, tmp_path: Path) -> None:
    """Brackets are no markup of the console, and control characters do not reach the terminal."""
    shutil.copytree(tiny_repository, tmp_path / "repository")
    path = tmp_path / "repository" / "tiny" / "1" / "manifest.json"
    labels = ["shoe [men]", "[/INST]", "\x1b]0;owned\x07", "[red]d", "caf\u00e9 \U0001f9d1\u200d\U0001f680"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "repository")])
    assert done.exit_code == 0, done.output
    shown = "5: shoe [men], [/INST], \\x1b]0;owned\\x07, [red]d, caf\u00e9 \U0001f9d1\u200d\U0001f680"
    assert shown in done.output
    assert "\x1b]0" not in done.output
