"""Weights in several files, which an index lists, as transformers writes large models."""

from __future__ import annotations

import json
from pathlib import Path

from export.errors import ForeignWeights
from export.importing.strangers import stranger_file
from models.files import git_lfs_problem

_MAX_PARTS = 100


def part_names(index: Path) -> list[str]:
    """The names of the files that an index lists, sorted.

    Raises:
        ForeignWeights: the index has another form, or lists a file in another folder.
    """
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(places.values()))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ForeignWeights(f"{index}: is no list of weights (weight_map): fetch it again") from error
    for name in names:
        if not isinstance(name, str) or name != Path(name).name:
            raise ForeignWeights(f"{index}: lists {name!r}, which is no file beside it: fetch the weights again")
    if len(names) > _MAX_PARTS:
        raise ForeignWeights(f"{index}: lists {len(names)} files, more than {_MAX_PARTS}: save the weights in one")
    return names


def part_files(index: Path) -> list[Path]:
    """The files that an index lists, beside it.

    Raises:
        ForeignWeights: the index has another form, or a file is missing, incomplete or in another folder.
    """
    parts = [index.parent / name for name in part_names(index)]
    for part in parts:
        if not part.is_file():
            raise ForeignWeights(f"{index}: lists {part.name}, which is not beside it: fetch that file, too")
        if problem := git_lfs_problem(part):
            raise ForeignWeights(problem)
        if problem := stranger_file(part, part=True):
            raise ForeignWeights(f"{part}: {problem}")
    return parts
