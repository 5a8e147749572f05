"""Weights on this machine: a file, or a folder as a model hub has it."""

from __future__ import annotations

from pathlib import Path

from export.errors import FetchError
from export.importing.strangers import stranger_folder
from export.sources.fetched import WEIGHTS, FetchedWeights, find_licence

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def fetch(name: str) -> FetchedWeights:
    """The weights of a file or folder, and the licence beside them."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return FetchedWeights(path, _suggestion(path))
    licence = find_licence(lambda file: found if (found := path / file).is_file() else None)
    provenance = {"licence": licence} if licence else {}
    return FetchedWeights(_weights(path), path.resolve().name, provenance)


def _suggestion(path: Path) -> str:
    """The name of the file, or of its folder if all such files have this name."""
    usual = path.name in WEIGHTS or path.stem in ("model", "weights", "checkpoint")
    return path.resolve().parent.name if usual else path.stem


def _weights(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        FetchError: there is none, or there are several and none has a usual name.
    """
    if problem := stranger_folder(folder):
        raise FetchError(f"{folder}: {problem}")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if len(files) == 1:
        return files[0]
    several = f"; it has {', '.join(path.name for path in files)}: give one of them" if files else ""
    raise FetchError(f"{folder}: has none of {', '.join(WEIGHTS)}{several}")
