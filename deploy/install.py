"""Installs, for an image, what the project needs: the base requirements and those of extras, but not the project.

    python install.py EXTRA ...

Works in the folder of pyproject.toml; pip is told where to by its own variables. Takes only wheels: there is no
compiler where this runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [wanted for extra in sys.argv[1:] for wanted in project["optional-dependencies"][extra]]
    subprocess.run(["pip", "install", "--only-binary", ":all:", *project["dependencies"], *extras], check=True)
    # Libraries' own tests, 17 MB. Their compiled files stay: with a root that cannot be written, each start would
    # compile them again, for a second.
    for tests in Path(os.environ["PIP_PYTHON"]).glob("lib/python*/site-packages/*/**/tests"):
        shutil.rmtree(tests, ignore_errors=True)


if __name__ == "__main__":
    main()
