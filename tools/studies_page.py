"""Writes the page of studies as a folder that any static file server can serve.

    python -m tools.studies_page FOLDER

The files are those of the service's `/studies`; nothing is installed, and nothing is computed.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "service" / "page"
_FOLDER = "studies"
_SHARED = ("dom.js",)
"""Scripts that those of the page import from the folder above."""


def export(target: Path) -> list[Path]:
    """Write the page as `index.html`, with its files beside it, and return all files; others are left as they are."""
    document = PAGE / "studies.html"
    referenced = re.findall(r'(?:href|src)="page/([^"]+)"', document.read_text(encoding="utf-8"))
    whole = [file.relative_to(PAGE).as_posix() for file in sorted((PAGE / _FOLDER).iterdir())]
    written = [_copy(document, target / "index.html")]
    written += [_copy(PAGE / name, target / "page" / name) for name in sorted({*referenced, *whole, *_SHARED})]
    return written


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give one argument: the folder to write, such as build/studies")
    files = export(Path(sys.argv[1]))
    print(f"{len(files)} files in {sys.argv[1]}; open index.html through a web server, since modules need one")
