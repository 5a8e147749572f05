"""The scorer: a class that engines for large data sets call with batches of image files.

The class knows no engine. `__init__` loads a version, and `__call__` takes a batch and gives the rows that
`resnet-classify` writes for it. It fits `Dataset.map_batches` of Ray Data, `DataFrame.mapInPandas` of Spark, and Daft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.imaging.preprocess import UInt8Array
from service.core.errors import ServiceError, UnprocessableImage
from service.decoding.decoder import DecodedFile
from service.inference.results import ImageResult
from service.messages.model import ServedModel
from service.scoring.contents import ContentReader
from service.scoring.model_thread import ModelThread
from service.scoring.settings import ScoringError, offline_settings

Columns = dict[str, np.ndarray[Any, Any]]
"""Columns of rows, by name; all of the same length."""


class Scorer:
    """Classifies batches of image files with one version of a model.

    Args:
        repository: folder or URL of models, which each worker can read. Default: the model that ships with the project.
        model: name of the model, if the repository has several.
        version: its version. Default: the newest.
        executor: runtime that computes, as of `resnet-serve`. Default: onnxruntime-cpu.
        precision: float32, float16, bfloat16 or int8. Default: float32.
        threads: threads that compute a batch together, in one instance. Default: by the rule of `resnet-serve`, for
            the whole machine.
        max_batch: most images that are computed together. Default: by the same rule.
        top_k: number of classes per image.

    Raises:
        ScoringError: the version cannot be loaded.
    """

    def __init__(
        self,
        repository: str | None = None,
        *,
        model: str | None = None,
        version: int | None = None,
        executor: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
        top_k: int = 1,
    ) -> None:
        given = {"executor": executor, "precision": precision, "threads": threads, "max_batch": max_batch}
        one = {} if threads is None else {"instances": 1, "single_image_threads": 0}
        settings = offline_settings(repository, model, version, **given, **one)
        self._top_k = top_k
        self._reader = ContentReader()
        try:
            self._thread = ModelThread(settings)
        except ServiceError as error:
            raise ScoringError(str(error)) from error

    @property
    def model(self) -> ServedModel:
        """The version."""
        return self._thread.model

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """Classify a batch.

        Args:
            batch: columns of the same length, as a mapping or a pandas `DataFrame`: `file` has paths or URLs. With
                `content`, which has encoded images, files are not read. With `pixels`, uint8 [H, W, C] each in the size
                of the network, they are not decoded either.

        Returns:
            a row per image and class, best first: file, rank from 1, label, index, probability. A file that cannot be
            classified has one row, with the rank 0 and the reason in the column error, which is empty otherwise.

        Raises:
            StorageError: object storage cannot be read.
            ServiceError: the model failed.
        """
        names = [str(name) for name in batch["file"]]
        if "pixels" in batch:
            decoded = [self._decoded(pixels) for pixels in batch["pixels"]]
            return to_columns(names, self.classify_decoded(decoded))
        contents = [bytes(each) for each in batch["content"]] if "content" in batch else self._reader.read(names)
        return to_columns(names, self._thread.classify_contents(contents, self._top_k))

    def classify_decoded(self, decoded: Sequence[DecodedFile | ServiceError]) -> list[ImageResult]:
        """Classify files that are decoded already; an error stays in its place.

        Raises:
            ServiceError: the model failed.
        """
        return self._thread.classify_decoded(decoded, self._top_k)

    def close(self) -> None:
        """Free the model."""
        self._reader.close()
        self._thread.close()

    def _decoded(self, pixels: UInt8Array) -> DecodedFile | ServiceError:
        shape = self.model.preprocess.shape
        if pixels.dtype != np.uint8 or pixels.shape != shape:
            return UnprocessableImage(
                f"the pixels are {pixels.dtype} {list(pixels.shape)}, and the network takes uint8 {list(shape)}"
            )
        height, width, _ = shape
        return DecodedFile(pixels, width, height, "pixels")


def to_columns(names: Sequence[str], results: Sequence[ImageResult]) -> Columns:
    """The rows of results, as columns: those of the CSV file of `resnet-classify`.

    Args:
        names: paths or URLs of the files.
        results: the result of each file.
    """
    rows: list[tuple[str, int, str, int, float, str]] = []
    for name, result in zip(names, results, strict=True):
        if result.error is not None:
            rows.append((name, 0, "", -1, float("nan"), str(result.error)))
        rows += [
            (name, rank, prediction.label, prediction.index, prediction.probability, "")
            for rank, prediction in enumerate(result.predictions, start=1)
        ]
    types = {"file": object, "rank": np.int32, "label": object, "index": np.int32, "probability": np.float32}
    columns = zip(*rows, strict=True) if rows else [()] * 6
    return {
        name: np.array(list(values), types.get(name, object))
        for name, values in zip((*types, "error"), columns, strict=True)
    }
