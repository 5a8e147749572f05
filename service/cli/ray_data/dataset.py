"""The dataset of Ray Data that scores files: its rows are chunks, computed while they are read."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import ray
import ray.data

from models.imaging.preprocess import Preprocess
from service.cli.ray_data.cluster import in_plain_words
from service.cli.ray_data.compute import Compute
from service.cli.ray_data.stages import Chunk, ChunkDecoder, Row, walk
from service.cli.ray_data.workers import DECODING_CPU, ActorPlan


def chunks_of_dataset(
    row: Row, preprocess: Preprocess, folder: str, plan: ActorPlan, options: Mapping[str, Any]
) -> Generator[Chunk]:
    """Chunks with results, in the order of their files.

    Args:
        row: the row that `walk` takes.
        preprocess: preprocessing of the model.
        folder: folder that relative paths start at.
        plan: the actors.
        options: those of `Scorer`.

    Raises:
        ScoringError: Ray ended the work, as with ServiceError and OSError.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # each row, which is a chunk, is a block
    dataset = ray.data.from_items([row], override_num_blocks=1).map_batches(walk, batch_size=1, num_cpus=0)
    # Actors, because Ray ends a worker of tasks after a second without work, and decoding is faster than computing:
    # half of the time went into new workers.
    dataset = dataset.map(
        ChunkDecoder,
        fn_constructor_args=(preprocess, folder),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=plan.decoders),
        num_cpus=DECODING_CPU,
    )
    dataset = dataset.map(
        Compute,
        fn_constructor_args=(options,),
        compute=ray.data.ActorPoolStrategy(size=plan.actors),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for computed in batch.to_pylist():
                yield Chunk.from_row(computed)
    except Exception as error:
        raise in_plain_words(error) from error


class ChunkReader:
    """An actor that reads the chunks on the cluster; arguments are those of `chunks_of_dataset`."""

    def __init__(self, *arguments: Any) -> None:
        self._chunks = chunks_of_dataset(*arguments)

    def next(self) -> Chunk | None:
        """The next chunk; None after the last one."""
        return next(self._chunks, None)


def chunks_by_client(*arguments: Any) -> Generator[Chunk]:
    """As `chunks_of_dataset`, for a Ray client: Ray Data needs a process of the cluster."""
    reader = ray.remote(num_cpus=0)(ChunkReader).remote(*arguments)
    try:
        while (chunk := ray.get(reader.next.remote())) is not None:
            yield chunk
    except Exception as error:
        raise in_plain_words(error) from error
    finally:
        ray.kill(reader)
