"""Where `resnet-classify` writes: the terminal or a file, or shards in a folder; heat maps and embeddings beside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from service.cli.embedding_files import open_embedding_file
from service.cli.file_list import FileList
from service.cli.offline import Begin
from service.cli.shards.destination import open_destination
from service.cli.shards.manifest import describe
from service.cli.shards.tables import ShardFormat, check_format
from service.cli.shards.writer import ShardWriter
from service.cli.sinks import CsvWriter, JsonLinesWriter, MapFolder, Sink, TableWriter
from service.messages.model import ServedModel


class Format(StrEnum):
    """Format of the output."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


_WRITERS: dict[Format, Callable[[TextIO], Sink]] = {
    Format.table: TableWriter,
    Format.csv: CsvWriter,
    Format.jsonl: JsonLinesWriter,
}


@dataclass(frozen=True)
class OutputOptions:
    """The options of the command line that say where results go."""

    format: Format | None
    """None for a table on the terminal, and for Parquet in a folder."""
    output: Path | None
    folder: str | None
    """Folder or URL for shards."""
    files_per_shard: int
    cam: Path | None
    embedding: Path | None
    layer: int | None

    def problem(self) -> str | None:
        """Why options do not go together; None if they do."""
        if self.layer is not None and self.embedding is None:
            return "--layer selects what --embedding writes: add --embedding FILE, or leave --layer out"
        if self.folder is None:
            if self.format is Format.parquet:
                return "--format parquet writes shards: add --output-folder FOLDER"
            return None
        if self.format is Format.table:
            return "--format table is for the terminal: shards are parquet, csv or jsonl"
        for name, value in (("--output", self.output), ("--embedding", self.embedding)):
            if value is not None:
                return f"{name} cannot continue after an interruption, as --output-folder does: leave one of them out"
        return None


@dataclass(frozen=True)
class Outputs:
    """The sinks, and what shards need at the begin and at the end."""

    sinks: list[Sink]
    begin: Callable[[ServedModel], Begin]
    complete: Callable[[], None]
    """Called after the last file."""


@contextmanager
def open_outputs(
    options: OutputOptions, files: FileList, unreadable: list[str], repository: Path, top_k: int
) -> Iterator[Outputs]:
    """Open all outputs.

    Args:
        options: where results go.
        files: the files to classify.
        unreadable: the folders and links that cannot be read; those of earlier runs are added.
        repository: folder of the models.
        top_k: number of classes per image.

    Raises:
        EmbeddingFileError: a format cannot be written.
        OSError: a file or folder cannot be written.
        ValueError: a URL is not valid.
    """
    more: list[Sink] = [] if options.cam is None else [MapFolder(options.cam, files.roots())]
    more += [] if options.embedding is None else [open_embedding_file(options.embedding)]
    if options.folder is None:
        with _open_stream(options.output) as stream:
            yield Outputs(
                [_WRITERS[options.format or Format.table](stream), *more], lambda model: Begin(), lambda: None
            )
        return
    format_ = ShardFormat(options.format or Format.parquet)
    check_format(format_)
    source = describe(files, repository, top_k=top_k, format=str(format_))
    shards = ShardWriter(open_destination(options.folder), format_, options.files_per_shard, source, unreadable)
    try:
        yield Outputs([shards, *more], shards.begin, shards.complete)
    finally:
        shards.close()


@contextmanager
def _open_stream(path: Path | None) -> Iterator[TextIO]:
    """The output in UTF-8. Bytes of a file name that are not UTF-8 are written as \\udc80 to \\udcff, as in JSON."""
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield sys.stdout
        sys.stdout.flush()
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        yield stream
