"""Classifies files with the pipeline of the service, for `resnet-classify` on one machine and for workers of a cluster:
their results are the same."""

from __future__ import annotations

import time
from collections.abc import Sequence

from service.core.errors import ServiceError
from service.core.priority import Priority
from service.decoding.decoder import DecodedFile
from service.inference.optional_outputs import NONE, OptionalOutputs
from service.inference.pipeline import Pipeline
from service.inference.results import ImageResult, make_results, with_errors
from service.inference.top_k import top_k
from service.messages.model import ServedModel
from service.scoring.contents import Content

CHUNK = 96
"""Files that are decoded and submitted together. With a ResNet-20, four chunks of 32 files have 6 % less throughput."""
CHUNKS_IN_FLIGHT = 2
"""Chunks at the same time, so that decoding and inference overlap."""
TIMEOUT_SECONDS = 3600.0
_OUTPUTS = frozenset({"probabilities"})


async def classify_contents(
    pipeline: Pipeline, model: ServedModel, contents: Sequence[Content], k: int, optional: OptionalOutputs = NONE
) -> list[ImageResult]:
    """Classify one chunk of files.

    Args:
        pipeline: decodes and computes.
        model: the version, which the caller holds.
        contents: encoded images, or why a file cannot be read.
        k: number of classes per image.
        optional: optional outputs.

    Raises:
        ServiceError: no file could be computed.
    """
    results: Sequence[ImageResult] = ()
    if readable := [content for content in contents if isinstance(content, bytes)]:
        answer = await pipeline.classify(model, readable, k, TIMEOUT_SECONDS, optional, inline_errors=True)
        results = answer.results
    return with_errors(contents, results)


async def classify_decoded(
    pipeline: Pipeline, model: ServedModel, decoded: Sequence[DecodedFile | ServiceError], k: int
) -> list[ImageResult]:
    """As `classify_contents`, for files that are decoded already."""
    results: Sequence[ImageResult] = ()
    if images := [image for image in decoded if isinstance(image, DecodedFile)]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        pixels = [image.pixels for image in images]
        model, inference = await pipeline.infer(model, pixels, _OUTPUTS, deadline, Priority.interactive)
        results = make_results(images, top_k(inference.outputs["probabilities"], model.labels, k))
    return with_errors(decoded, results)
