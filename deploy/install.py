"""Installs the requirements of the project into an image: the base requirements and those of extras.

    python install.py EXTRA ...

Works in the folder of pyproject.toml; pip's own variables set the target. Takes only wheels, because the image has no
compiler.
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
    # Tests of the libraries, 17 MB. Compiled files stay: with a read-only root file system, each start would compile
    # them again, for a second.
    for tests in Path(os.environ["PIP_PYTHON"]).glob("lib/python*/site-packages/*/**/tests"):
        shutil.rmtree(tests, ignore_errors=True)


if __name__ == "__main__":
    main()
