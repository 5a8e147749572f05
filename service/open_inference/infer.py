"""An inference: find the model, read the tensor, decode it if it is image files, compute, write the outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.imaging.preprocess import UInt8Array
from service.core.priority import Priority
from service.core.threads import run_python
from service.decoding.decoder import pixels_of
from service.inference.pipeline import Pipeline
from service.messages.model import ServedModel
from service.open_inference import inputs
from service.open_inference.inputs import Input
from service.open_inference.model_name import ModelName
from service.open_inference.outputs import (
    Output,
    WantedOutput,
    check_model_has,
    check_outputs,
    write_outputs,
)
from service.telemetry import request_context

MAX_TIMEOUT = 3_600_000_000
"""Longest time limit in a request, in microseconds."""


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """A request to compute one tensor."""

    tensor: Input
    outputs: Sequence[WantedOutput]
    deadline: float
    """`time.monotonic` seconds."""
    priority: Priority
    binary: bool = True
    """Whether the default output is raw bytes."""


@dataclass(frozen=True, slots=True)
class TensorResponse:
    """The outputs."""

    version: str
    """Version of the model that computed them."""
    outputs: list[Output]


def request_priority(priority: int) -> Priority:
    """The priority as the service has it: in the protocol 1 is computed before 2; 0 is the default, and means 1."""
    return Priority.interactive if priority <= 1 else Priority.bulk


async def begin(pipeline: Pipeline, model_name: ModelName) -> None:
    """Check whether a request can be admitted, before its body is read, which has its priority and time limit.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: the version is not served.
        Overloaded: one image is above the capacity.
    """
    await pipeline.lookup.ensure_loaded(model_name.model, model_name.version, pipeline.settings.timeout_ms / 1e3)
    model = pipeline.find(model_name.model, model_name.version)
    context = request_context.current()
    context.model, context.version = model.name, model.version
    pipeline.check_admission(model, 1, math.inf, Priority.interactive)


async def infer(
    pipeline: Pipeline, model_name: ModelName, request: TensorRequest, hold_response: Callable[[int], None]
) -> TensorResponse:
    """Compute a tensor: pixels for NAME, image files for NAME-encoded.

    Args:
        pipeline: computes.
        model_name: the model.
        request: the tensor, and the outputs to write.
        hold_response: counts the bytes of the outputs; may raise Overloaded.

    Raises:
        ServiceError: the request is not valid, or was not computed.
    """
    outputs = check_outputs(request.outputs, request.binary)
    names = frozenset(output.name for output in outputs)
    deadline, priority = request.deadline, request.priority
    # The version is leased only now: another one may have replaced it while the body was read.
    left = deadline - time.monotonic()
    await pipeline.lookup.ensure_loaded(model_name.model, model_name.version, left, first=False)
    lease = pipeline.lease(model_name.model, model_name.version)
    with lease as model:
        check_model_has(names, model)
        context = request_context.current()
        context.version, context.priority = model.version, priority
        files, images = await _read_tensor(pipeline, model_name, model, request.tensor)
        started = time.monotonic()
        lease.admit(len(files) or len(images), deadline - started, priority)
        if files:
            decoded = await pipeline.decode(files, model.preprocess, deadline, priority)
            images = pixels_of(decoded, "image {}")
        decode = time.monotonic() - started
        model, result = await pipeline.infer(model, images, names, deadline, priority, decode)
        context.images += len(images)
        hold_response(sum(output.nbytes for output in result.outputs.values()))
        return TensorResponse(model.version, await write_outputs(outputs, result, model.labels))


async def _read_tensor(
    pipeline: Pipeline, model_name: ModelName, model: ServedModel, tensor: Input
) -> tuple[Sequence[bytes], Sequence[UInt8Array]]:
    """The image files, or the images, in a request."""
    max_images = pipeline.settings.max_images
    if model_name.encoded:
        return inputs.read_files(tensor, max_images), ()
    arguments = tensor, model.preprocess.shape, max_images
    if tensor.is_slow:
        return (), list(await run_python(inputs.read_images, *arguments))
    return (), list(inputs.read_images(*arguments))
