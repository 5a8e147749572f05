"""One image, classified by a network with all its blocks and without some of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from models.artifact.manifest import LesionBlock
from service.core.errors import BadRequest, NotFound, Overloaded, ServiceError
from service.core.priority import Priority
from service.inference.pipeline import Pipeline
from service.inference.results import ImageInfo, Prediction, Timing, fit_times, make_result, make_results, make_timing
from service.inference.top_k import top_k
from service.messages.lesion import LesionRequest
from service.messages.model import ServedModel
from service.telemetry import request_context

_MAX_IN_FLIGHT = 4
"""Requests in this process, from their body to their answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionResult:
    """The classes of an image, and the blocks."""

    model: ServedModel
    deleted: tuple[int, ...]
    """Positions of the deleted blocks in `model.lesion_blocks`."""
    image: ImageInfo
    whole: Sequence[Prediction]
    """Best classes with all blocks."""
    without: Sequence[Prediction]
    """Best classes without the deleted blocks."""
    timing: Timing


class LesionPipeline:
    """Answers requests beside those of the pipeline: they are not in its queue, and only few are accepted.

    Args:
        pipeline: finds models and decodes images.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._in_flight = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request as in flight.

        Raises:
            Overloaded: there are too many.
        """
        if self._in_flight >= _MAX_IN_FLIGHT:
            raise Overloaded(1)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def compute(
        self, model: ServedModel, file: bytes, deleted: tuple[int, ...], k: int, deadline: float
    ) -> LesionResult:
        """Classify an image file.

        Args:
            model: the version, which the caller holds.
            file: encoded image.
            deleted: positions of the deleted blocks.
            k: number of classes.
            deadline: `time.monotonic` seconds.

        Raises:
            ServiceError: as `Pipeline.decode` and `Backend.lesion`, or the image cannot be decoded.
        """
        started = time.monotonic()
        (image,) = await self.pipeline.decode([file], model.preprocess, deadline, Priority.bulk)
        if isinstance(image, ServiceError):
            raise image
        decoded = time.monotonic()
        result = await self.pipeline.backend.lesion(model.key, LesionRequest(image.pixels, deleted, deadline))
        context = request_context.current()
        context.images += 1
        ended = time.monotonic()
        whole, without = top_k(result.outputs["probabilities"], model.labels, k)
        (described,) = make_results([image], [whole])
        for each in (described, make_result(without)):
            if each.error is not None:
                raise each.error
        assert described.image is not None
        timing = make_timing(decoded - started, fit_times(result, ended - decoded), 0.0, time.monotonic() - started)
        return LesionResult(
            model=model, deleted=deleted, image=described.image, whole=whole, without=without, timing=timing
        )


def check_blocks(model: ServedModel, numbers: Sequence[int]) -> tuple[int, ...]:
    """Positions of blocks with these numbers, which begin with 1.

    Raises:
        NotFound: the version has no graph in which blocks can be deleted.
        BadRequest: there is no such block.
    """
    blocks: Sequence[LesionBlock] = model.lesion_blocks
    if not blocks:
        raise NotFound(
            f"no blocks of {model.name} version {model.version} can be deleted: "
            "export it with resnet-export build --lesions"
        )
    for number in numbers:
        if not 1 <= number <= len(blocks):
            raise BadRequest(f"deleted: there is no block {number}: the blocks are 1 to {len(blocks)}")
    return tuple(sorted({number - 1 for number in numbers}))
