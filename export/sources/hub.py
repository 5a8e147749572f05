"""`hf-hub:OWNER/NAME[@REVISION]`: a model of Hugging Face's hub, or of a mirror (`HF_ENDPOINT`).

The library huggingface_hub fetches the files into its cache, with its token and its offline mode.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import FetchError
from export.importing.configuration import check_configuration
from export.importing.parts import part_names
from export.sources.fetched import CONFIGURATIONS, WEIGHTS, FetchedWeights, find_licence
from models.extras import missing

if TYPE_CHECKING:
    from export.sources.hub_cache import Snapshot

_MODEL, _REVISION = r"[\w.-]+/[\w.-]+", r"(?!.*\.\.)(?!/)[\w./+-]*"
_MAX_TEXT = 16 * 2**20
"""Most bytes of a configuration, card or index."""


def fetch(name: str) -> FetchedWeights:
    """Bring the files of a model that an import needs into the cache of huggingface_hub."""
    model, _, revision = name.partition("@")
    if not re.fullmatch(_MODEL, model) or not re.fullmatch(_REVISION, revision):
        raise FetchError(f"hf-hub:{name}: is no name of a model: write hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION")
    try:
        from export.sources.hub_cache import Snapshot
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise FetchError(missing(f"hf-hub:{name}", "huggingface_hub", "hub")) from error
    with Snapshot(model, revision or "main") as snapshot:
        config, *_ = (snapshot.get(file, _MAX_TEXT) for file in CONFIGURATIONS)
        check_configuration(f"hf-hub:{name}", {} if config is None else _read_object(config))
        licence = find_licence(lambda file: snapshot.get(file, _MAX_TEXT))
        weights = _weights(snapshot)
        if weights is None:
            raise FetchError(f"hf-hub:{name}: {snapshot.absent(WEIGHTS)}")
    provenance = {"commit": weights.parent.name, **({"licence": licence} if licence else {})}
    return FetchedWeights(weights, model.partition("/")[2], provenance)


def _weights(snapshot: Snapshot) -> Path | None:
    for file in WEIGHTS:
        if not file.endswith(".index.json"):
            if found := snapshot.get(file):
                return found
        elif index := snapshot.get(file, _MAX_TEXT):
            for part in part_names(index):
                if snapshot.get(part) is None:
                    raise FetchError(f"{index.name} names {part}, which {snapshot.absent((part,))}")
            return index
    return None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
