"""Writes results in shards that survive any interruption: a sink of `resnet-classify`.

A shard is written to a file without its name, then gets its name, then the manifest lists it. After an interruption the
work continues behind the last file of the last listed shard; files that are not listed are removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from models.artifact.manifest import sha256
from service.cli.file_list import ImageFile
from service.cli.offline import Begin
from service.cli.shards import manifest
from service.cli.shards.destination import Destination, scratch_file
from service.cli.shards.manifest import ResultManifest, Shard, ShardFile, Source
from service.cli.shards.tables import ShardFormat, Table, open_table
from service.core.object_storage import StorageError
from service.inference.results import ImageResult
from service.messages.model import ServedModel

_SHARD_NAME = re.compile(r"(part|errors)-\d{5,}\.(parquet|csv|jsonl)")


@dataclass
class _Open:
    """The shard that is being written."""

    first: ImageFile
    last: ImageFile
    files: int = 0
    tables: dict[str, tuple[Path, Table]] = field(default_factory=dict)
    """By the first part of the name: part and errors."""


class ShardWriter:
    """Writes the results of successive files in shards. Closing and copying a shard overlaps with the next one.

    Args:
        destination: folder of the results; closed with the writer.
        format_: format of the shards.
        files_per_shard: files per shard; fewer in the last shard before an interruption, and in the last one.
        source: describes what results are computed with.
        unreadable: the folders and links that cannot be read, as the walk finds them; those of earlier runs are added.
    """

    def __init__(
        self,
        destination: Destination,
        format_: ShardFormat,
        files_per_shard: int,
        source: Callable[[ServedModel], Source],
        unreadable: list[str],
    ) -> None:
        self._destination = destination
        self._format = format_
        self._files_per_shard = files_per_shard
        self._source = source
        self._unreadable = unreadable
        self._open: _Open | None = None
        self._manifest = ResultManifest({})
        self._thread = ThreadPoolExecutor(1, "shards")
        self._publishing: Future[None] | None = None

    def begin(self, model: ServedModel) -> Begin:
        """Read the manifest, and say where to continue.

        Raises:
            OSError: the folder has results of another model or other options, or a shard is missing.
        """
        source, place = self._source(model), self._destination.place
        content = self._destination.read(manifest.FILE_NAME)
        sizes = {name: size for name, size in self._destination.sizes().items() if _SHARD_NAME.fullmatch(name)}
        if content is None:
            if sizes:
                raise StorageError(f"{place}: has {max(sizes)} and no {manifest.FILE_NAME}: give an empty folder")
            self._manifest = ResultManifest(source)
            self._write_manifest()
            return Begin()
        self._manifest = manifest.parse(content, place)
        manifest.check_same(self._manifest.source, source, place)
        self._unreadable += self._manifest.unreadable
        shards = self._manifest.shards
        for file in (file for shard in shards for file in (shard.predictions, shard.errors) if file is not None):
            if sizes.pop(file.name, None) != file.bytes:
                raise StorageError(f"{place}/{file.name}: is not the file that {manifest.FILE_NAME} lists: restore it")
        for name in sizes:
            self._destination.remove(name)
        last = shards[-1].last if shards else None
        return Begin(last, self._manifest.files, self._manifest.failed, self._manifest.complete)

    def write(self, file: ImageFile, result: ImageResult) -> None:
        """Add the results of a file, and end the shard if it is full."""
        if self._open is None:
            self._open = _Open(file, file)
            self._open_table("part", self._open)
        shard = self._open
        name = "part" if result.error is None else "errors"
        if name not in shard.tables:
            self._open_table(name, shard)
        shard.tables[name][1].write(file, result)
        shard.last = file
        shard.files += 1
        if shard.files == self._files_per_shard:
            self._end_shard(shard)

    def finish(self) -> None:
        """End the last shard, which may have fewer files, and wait until the manifest lists it."""
        if self._open is not None:
            self._end_shard(self._open)
        self._wait()

    def complete(self) -> None:
        """Mark the results as complete."""
        if not self._manifest.complete:
            self._manifest.complete = True
            self._write_manifest()

    def close(self) -> None:
        """End the thread, and remove unfinished files."""
        self._thread.shutdown()
        self._destination.close()

    def _open_table(self, name: str, shard: _Open) -> None:
        path = scratch_file(self._destination)
        shard.tables[name] = (path, open_table(self._format, path, failures=name == "errors"))

    def _end_shard(self, shard: _Open) -> None:
        self._open = None
        for _, table in shard.tables.values():
            table.close()
        self._wait()
        self._publishing = self._thread.submit(self._publish, shard)

    def _wait(self) -> None:
        """Wait until the last shard is listed; raises the error if that failed, also the next time."""
        if self._publishing is not None:
            self._publishing.result()

    def _publish(self, shard: _Open) -> None:
        number = len(self._manifest.shards)
        files = {}
        for name, (path, table) in shard.tables.items():
            file_name = f"{name}-{number:05}.{self._format}"
            files[name] = ShardFile(file_name, table.rows, path.stat().st_size, sha256(path))
            self._destination.put(path, file_name)
        listed = Shard(shard.files, files["part"], files.get("errors"), shard.first, shard.last)
        self._manifest.shards.append(listed)
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._manifest.unreadable = list(dict.fromkeys(self._unreadable))  # another run may find the same ones again
        self._destination.write(manifest.FILE_NAME, self._manifest.to_json())
