"""The installed commands, in a folder that has folders with the names of our packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["resnet-serve", "tune"], ["resnet-classify"], ["resnet-export", "tune"]])
def test_other_folders_of_the_same_name_do_not_hide_the_packages(arguments: list[str], tmp_path: Path) -> None:
    for package in ("models", "service", "export"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = subprocess.run(
        [SCRIPTS / arguments[0], *arguments[1:], "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "wrong package" in done.stderr) == (0, False), done.stderr
    assert "Usage: " in done.stdout
