"""The computation of a request, by the version that it got or, if that one fails, by the stable one."""

from __future__ import annotations

import logging
import time

from service.core.errors import InferenceFailed, NotYetAvailable, Overloaded, Unavailable
from service.inference import routing
from service.inference.results import fit_times
from service.messages.backend import Backend
from service.messages.inference import InferenceRequest, InferenceResult
from service.messages.model import ServedModel
from service.telemetry import request_context

log = logging.getLogger(__name__)


async def compute(
    backend: Backend, model: ServedModel, request: InferenceRequest
) -> tuple[ServedModel, InferenceResult]:
    """Compute images. A version that a traffic policy tries costs no request its answer.

    Args:
        backend: computes.
        model: the version, which the caller holds.
        request: the images.

    Returns:
        The version that has computed, and the result.

    Raises:
        ServiceError: as `Backend.submit`.
    """
    try:
        return model, await _submit(backend, model, request)
    except (InferenceFailed, Unavailable) as error:
        stable = routing.find_stable(backend.catalog, model, request.outputs)
        if stable is None or isinstance(error, Overloaded | NotYetAvailable):
            raise
        log.warning("%s version %s failed, version %s computes: %s", model.name, model.version, stable.version, error)
    backend.hold(stable.name, stable.version)
    try:
        request_context.current().version = stable.version
        return stable, await _submit(backend, stable, request)
    finally:
        backend.release(stable.key)


async def _submit(backend: Backend, model: ServedModel, request: InferenceRequest) -> InferenceResult:
    submitted = time.monotonic()
    result = await backend.submit(model.key, request)
    result = fit_times(result, time.monotonic() - submitted)
    context = request_context.current()
    context.batch_size = max(context.batch_size, result.batch_size)
    start = submitted
    for stage, seconds in (
        ("queue", result.queue_seconds),
        ("assembly", result.assembly_seconds),
        ("inference", result.inference_seconds),
    ):
        context.stage(stage, start, seconds)
        start += seconds
    return result
