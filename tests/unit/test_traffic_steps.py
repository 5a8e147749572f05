"""`resnet-export promote` and `rollback`, by the file that they write."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export.__main__ import app

STEPS: dict[str, tuple[list[str], dict[str, float]]] = {
    "the first step": (["promote m 2 --share 5 --stable 1"], {"1": 95, "2": 5}),
    "a larger share": (["promote m 2 --share 5 --stable 1", "promote m 2 --share 50"], {"1": 50, "2": 50}),
    "all requests": (["promote m 2 --share 5 --stable 1", "promote m 2"], {"1": 0, "2": 100}),
    "a third version": (
        ["promote m 2 --share 25 --stable 1", "promote m 3 --share 20"],
        {"1": 60, "2": 20, "3": 20},
    ),
    "back": (["promote m 2 --share 5 --stable 1", "rollback m 2"], {"1": 100, "2": 0}),
    "back from all requests": (["promote m 2", "rollback m 2 --stable 1"], {"1": 100, "2": 0}),
    "another model": (["promote m 2", "promote n 7"], {"2": 100}),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_of_a_rollout(case: str, tmp_path: Path) -> None:
    commands, expected = STEPS[case]
    path = tmp_path / "traffic.toml"
    for command in commands:
        result = CliRunner().invoke(app, [*command.split(), "--traffic", str(path)])
        assert result.exit_code == 0, result.output
    entries = {entry["name"]: entry for entry in tomllib.loads(path.read_text())["model"]}
    assert entries["m"]["weights"] == expected


def test_the_header_stays(tmp_path: Path) -> None:
    path = tmp_path / "traffic.toml"
    path.write_text('[[model]]\nname = "m"\nweights = {1 = 1}\nsticky_header = "X-User"\nkeep_images = 3\n')
    assert CliRunner().invoke(app, ["promote", "m", "2", "--share", "10", "--traffic", str(path)]).exit_code == 0
    (entry,) = tomllib.loads(path.read_text())["model"]
    assert entry == {"name": "m", "weights": {"1": 90, "2": 10}, "sticky_header": "X-User", "keep_images": 3}


REFUSED = {
    "no version for the rest": ("promote m 2 --share 5", "--stable"),
    "the rest for itself": ("promote m 2 --share 5 --stable 2", "--stable"),
    "no version to go back to": ("rollback m 2", "--stable"),
    "a version that is not in the repository": ("promote m 2 --repository .", "has no version 2"),
    "a model name": ("promote a/b 2", "name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_steps_that_are_not_possible_change_nothing(case: str, tmp_path: Path) -> None:
    command, message = REFUSED[case]
    path = tmp_path / "traffic.toml"
    result = CliRunner().invoke(app, [*command.split(), "--traffic", str(path)])
    assert result.exit_code == 2
    assert message in result.output
    assert not path.exists()
