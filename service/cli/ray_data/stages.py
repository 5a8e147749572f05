"""Stages of scoring on the workers of a cluster: walk through the folders, and decode. `compute` has the last one.

Ray calls them with rows. A row is a chunk of files, pickled: Ray makes blocks by their bytes, of which names have a
thousandth of those of pixels, and never divides a row.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed
from itertools import islice
from typing import Any

from models.imaging.allowance import DecodeMemory
from models.imaging.image_files import Skipped
from models.imaging.preprocess import Preprocess
from service.cli.file_list import FileList, ImageFile
from service.core.errors import ServiceError
from service.core.settings.offline import OfflineSettings
from service.core.threads import lower_priority
from service.decoding.decoder import DecodedFile, Decoder
from service.inference.results import ImageResult
from service.scoring.classification import TIMEOUT_SECONDS
from service.scoring.contents import ContentReader

Row = dict[str, Any]
"""A row of a dataset."""
_COLUMN = "chunk"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some files, in their order, on their way through the stages."""

    files: Sequence[ImageFile]
    before: ImageFile | None
    """The file before the first one; None for the first file of all."""
    skipped: Skipped
    """Found by the walk since the chunk before."""
    decoded: Sequence[DecodedFile | ServiceError] = field(default=())
    results: Sequence[ImageResult] = field(default=())

    def to_row(self) -> Row:
        """The row that Ray passes on."""
        return {_COLUMN: pickle.dumps(self, pickle.HIGHEST_PROTOCOL)}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Chunk:
        """The chunk of a row."""
        chunk: Chunk = pickle.loads(row[_COLUMN])
        return chunk


def first_row(files: FileList, after: ImageFile | None, size: int) -> Row:
    """The row that `walk` takes.

    Args:
        files: the files to classify.
        after: file of an earlier run; only the files behind it are classified.
        size: files per chunk.
    """
    return {_COLUMN: pickle.dumps((files, after, size))}


def walk(batch: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """Chunks of the files, one after the other. The last one has no files."""
    files, before, size = pickle.loads(batch[_COLUMN][0])
    skipped = Skipped()
    remaining = files.walk(skipped, before)
    while True:
        chunk = Chunk(list(islice(remaining, size)), before, skipped.take())
        yield {name: [value] for name, value in chunk.to_row().items()}
        if not chunk.files:
            return
        before = chunk.files[-1]


class ChunkDecoder:
    """Reads and decodes the files of chunks, in a process of its own, with the limits of `resnet-classify`.

    Args:
        preprocess: preprocessing of the model.
        folder: folder that relative paths start at.
    """

    def __init__(self, preprocess: Preprocess, folder: str) -> None:
        lower_priority()  # as threads that decode
        settings = OfflineSettings()
        memory = DecodeMemory(settings.max_decode_bytes)
        self._preprocess = preprocess
        self._decoder = Decoder(1, settings.max_pixels, settings.decode, memory=memory)
        self._reader = ContentReader(folder)

    def __call__(self, row: Mapping[str, Any]) -> Row:
        """Decode a chunk.

        Raises:
            StorageError: object storage cannot be read.
        """
        chunk = Chunk.from_row(row)
        decoded: list[DecodedFile | ServiceError] = []
        for content in self._reader.read([file.name for file in chunk.files]):
            if isinstance(content, bytes):
                allowance = self._decoder.allowance(time.monotonic() + TIMEOUT_SECONDS)
                decoded += self._decoder.decode_part([content], self._preprocess, allowance)
            else:
                decoded.append(content)
        return replace(chunk, decoded=decoded).to_row()


def find_problem(version: str, paths: Sequence[str]) -> str | None:
    """Why this machine cannot take part; None if it can.

    Args:
        version: version of this package on the machine that starts the work.
        paths: absolute paths of files and folders that must exist.
    """
    if (own := installed("resnet-serve")) != version:
        return f"has resnet-serve {own}, and this machine has {version}: install the same version"
    for path in paths:
        if not os.path.exists(path):
            return f"has no {path}: use a folder that all machines share, at the same path, or a URL"
    return None
