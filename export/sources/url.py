"""`url:https://…#sha256=…`: one file of weights from any server, with its hash."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from export.errors import FetchError
from export.sources.download import download
from export.sources.fetched import FetchedWeights
from export.sources.http import check_url


def fetch(name: str) -> FetchedWeights:
    """Bring a file onto this machine, unless a file with its hash is there already."""
    url, fragment = urldefrag(name)
    check_url(url)
    if not fragment:
        raise FetchError(
            f"url:{url}: needs the hash of the file, #sha256=…; sha256sum prints it for a copy that you trust"
        )
    digest = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if digest is None:
        raise FetchError(f"url:{name}: is no hash of a file: write #sha256= and 64 hexadecimal digits")
    file = re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name).lstrip(".") or "weights"
    target = _cache() / digest[1].lower() / file[:100]
    download(url, target, digest[1].lower())
    parts = urlsplit(url)
    shown = f"url:{parts.scheme}://{parts.hostname}{parts.path}#sha256={digest[1].lower()}"  # without secrets
    return FetchedWeights(target, PurePosixPath(file).stem, {"source": shown})


def _cache() -> Path:
    # Relative paths are ignored, as in the XDG base directory specification.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "resnet-export"
