"""The last stage of scoring on the workers of a cluster: an actor computes chunks with the scorer."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.cli.ray_data.stages import Chunk, Row
from service.scoring.scorer import Scorer


class Compute:
    """Computes the files of a chunk, with a scorer.

    Args:
        options: those of `Scorer`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._scorer = Scorer(**options)

    def __call__(self, row: Mapping[str, Any]) -> Row:
        """Replace the pixels of a chunk by the results."""
        chunk = Chunk.from_row(row)
        return replace(chunk, decoded=(), results=self._scorer.classify_decoded(chunk.decoded)).to_row()


def describe(options: Mapping[str, Any]) -> bytes:
    """Load a version as a worker does, and give its description: a pickled `ServedModel`."""
    scorer = Scorer(**options)
    try:
        return pickle.dumps(replace(scorer.model, classifier=None))
    finally:
        scorer.close()
