"""The messages between a worker and the engine process, as bytes.

    worker → engine   SUBMIT  LESION  DECODE  CANCEL  REFUSED  RELEASED  SEEN  CALL
    engine → worker   RESULT  DECODED  FAILURE  CLASSIFIER  CATALOG  REPLY

A frame is the length of its body, its kind, and the body. Frequent messages are packed by `struct`, the others
are JSON. Pixels are in the arena of the worker: a message has their offsets. The descriptor of the arena comes
before the first frame of a worker.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import IntEnum
from typing import Any, NamedTuple, get_type_hints

import numpy as np
from pydantic import create_model
from pydantic_core import from_json, to_json

from models.artifact.classifier_head import Classifier
from models.artifact.manifest import LAYER_OUTPUTS, OUTPUTS
from models.artifact.traffic import TrafficPolicy
from service.core import errors
from service.core.errors import ServiceError
from service.core.priority import Priority
from service.messages.catalog import Catalog, CatalogModel
from service.messages.inference import InferenceResult
from service.messages.model import ServedModel

VERSION = 2
"""Both sides are started from the same files, so it differs only if one was not replaced after an update."""


class Kind(IntEnum):
    """Kinds of frames."""

    SUBMIT = 1
    CANCEL = 2
    REFUSED = 3
    RELEASED = 4
    SEEN = 5
    CALL = 6
    RESULT = 7
    FAILURE = 8
    CLASSIFIER = 9
    CATALOG = 10
    REPLY = 11
    DECODE = 12
    DECODED = 13
    LESION = 14


HEAD = struct.Struct("<IB")
_NUMBER = struct.Struct("<Q")
_SUBMIT = struct.Struct("<QQddBBBxI")
_RESULT = struct.Struct("<QdddIB")
_OUTPUTS = OUTPUTS + LAYER_OUTPUTS
_PLACES = {name: place for place, name in enumerate(_OUTPUTS)}
_OUTPUT_SETS = [
    frozenset(name for bit, name in enumerate(_OUTPUTS) if bits & 1 << bit) for bits in range(1 << len(_OUTPUTS))
]
"""Every set of outputs, at the place of its number: a bit of the number stands for each output."""
_SET_NUMBERS = {names: number for number, names in enumerate(_OUTPUT_SETS)}
_PRIORITIES = tuple(Priority)


class Submit(NamedTuple):
    """Compute images with a version."""

    request: int
    key: int
    offsets: Sequence[int]
    """Of the images in the arena of the worker."""
    outputs: frozenset[str]
    deadline: float
    priority: Priority
    decode_seconds: float
    only_in_flight: bool


def frame(kind: Kind, body: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(len(body), kind) + body


def number_frame(kind: Kind, number: int) -> bytes:
    """A frame whose body is one number."""
    return HEAD.pack(_NUMBER.size, kind) + _NUMBER.pack(number)


def read_number(body: memoryview) -> int:
    """The number at the start of a body."""
    number: int = _NUMBER.unpack_from(body)[0]
    return number


def submit_frame(message: Submit) -> bytes:
    """SUBMIT."""
    count = len(message.offsets)
    body = _SUBMIT.pack(
        message.request,
        message.key,
        message.deadline,
        message.decode_seconds,
        _SET_NUMBERS[message.outputs],
        _PRIORITIES.index(message.priority),
        message.only_in_flight,
        count,
    )
    return frame(Kind.SUBMIT, body + struct.pack(f"<{count}Q", *message.offsets))


def read_submit(body: memoryview) -> Submit:
    """The content of SUBMIT."""
    request, key, deadline, decode_seconds, outputs, priority, only_in_flight, count = _SUBMIT.unpack_from(body)
    offsets = struct.unpack_from(f"<{count}Q", body, _SUBMIT.size)
    names, only = _OUTPUT_SETS[outputs], bool(only_in_flight)
    return Submit(request, key, offsets, names, deadline, _PRIORITIES[priority], decode_seconds, only)


def result_frame(request: int, result: InferenceResult) -> bytes:
    """RESULT."""
    head = _RESULT.pack(
        request,
        result.queue_seconds,
        result.assembly_seconds,
        result.inference_seconds,
        result.batch_size,
        len(result.outputs),
    )
    shapes, values = [], []
    for name, array in result.outputs.items():
        shapes.append(struct.pack(f"<BB{array.ndim}I", _PLACES[name], array.ndim, *array.shape))
        values.append(array.tobytes())
    return frame(Kind.RESULT, b"".join([head, *shapes, *values]))


def read_result(body: memoryview) -> tuple[int, InferenceResult]:
    """The content of RESULT: the number of the request, and the result, whose arrays lie in the body."""
    request, queue, assembly, inference, batch, count = _RESULT.unpack_from(body)
    place, shapes = _RESULT.size, []
    for _ in range(count):
        output, dimensions = body[place], body[place + 1]
        shapes.append((_OUTPUTS[output], struct.unpack_from(f"<{dimensions}I", body, place + 2)))
        place += 2 + 4 * dimensions
    outputs = {}
    for name, shape in shapes:
        size = math.prod(shape)
        outputs[name] = np.frombuffer(body, np.float32, size, place).reshape(shape)
        place += 4 * size
    return request, InferenceResult(outputs, queue, assembly, inference, batch)


def json_frame(kind: Kind, number: int, content: object) -> bytes:
    """A frame of a number and JSON: CALL, REPLY, FAILURE, CATALOG."""
    return frame(kind, _NUMBER.pack(number) + to_json(content))


def read_json(body: memoryview) -> tuple[int, Any]:
    """The number and the content of such a frame."""
    return read_number(body), from_json(bytes(body[_NUMBER.size :]))


def error_fields(error: ServiceError) -> dict[str, Any]:
    """An error as JSON: its class, its message and its attributes."""
    return {"kind": type(error).__name__, "message": str(error), "attributes": vars(error)}


def make_error(content: Mapping[str, Any]) -> ServiceError:
    """The error that `error_fields` wrote."""
    kind: type[ServiceError] = getattr(errors, content["kind"])
    error = kind.__new__(kind)
    Exception.__init__(error, content["message"])
    vars(error).update(content["attributes"])
    return error


_hints = get_type_hints(ServedModel)
_MODEL_FIELDS = {each.name: (_hints[each.name], ...) for each in fields(ServedModel) if each.name != "classifier"}
_Model: Any = create_model("Model", **_MODEL_FIELDS)  # type: ignore[call-overload]


def classifier_frame(key: int, classifier: Classifier) -> bytes:
    """CLASSIFIER: the weights of the last layer of a version, sent before the first catalog with the version."""
    head = _NUMBER.pack(key) + struct.pack("<2I", *classifier.weight.shape)
    return frame(Kind.CLASSIFIER, head + classifier.weight.tobytes() + classifier.bias.tobytes())


def read_classifier(body: memoryview) -> tuple[int, Classifier]:
    """The content of CLASSIFIER."""
    classes, features = struct.unpack_from("<2I", body, _NUMBER.size)
    values = np.frombuffer(body, np.float32, offset=_NUMBER.size + 8)
    weight = values[: classes * features].reshape(classes, features)
    return read_number(body), Classifier(weight, values[classes * features :])


def catalog_fields(catalog: Catalog, known: set[int]) -> dict[str, Any]:
    """A catalog as JSON; versions with a known key are not described again."""
    new = [
        {name: getattr(model, name) for name in _MODEL_FIELDS} | {"classifier": model.classifier is not None}
        for model in catalog.all_served()
        if model.key not in known
    ]
    models = [
        {
            "name": model.name,
            "current": None if model.current is None else model.current.key,
            "versions": [[number, version.key] for number, version in model.versions.items()],
            "failures": list(model.failures.items()),
            "loading": sorted(model.loading),
            "traffic": model.traffic,
            "on_demand": sorted(model.on_demand),
        }
        for model in catalog.models.values()
    ]
    return {
        "new": new,
        "models": models,
        "default": catalog.default,
        "loading": catalog.loading,
        "not_ready": catalog.not_ready,
    }


def make_catalog(
    content: Mapping[str, Any], known: dict[int, ServedModel], classifiers: Mapping[int, Classifier]
) -> Catalog:
    """The catalog that `catalog_fields` wrote.

    Args:
        content: JSON.
        known: versions by key, which are used again; new versions are added.
        classifiers: those that were sent, by key.
    """
    for each in content["new"]:
        described = _Model.model_validate(each)
        values = {name: getattr(described, name) for name in _MODEL_FIELDS}
        known[described.key] = ServedModel(**values, classifier=classifiers.get(described.key))
    models = {
        each["name"]: CatalogModel(
            name=each["name"],
            current=None if each["current"] is None else known[each["current"]],
            versions={number: known[key] for number, key in each["versions"]},
            failures=dict(each["failures"]),
            loading=frozenset(each["loading"]),
            traffic=None if each["traffic"] is None else TrafficPolicy.model_validate(each["traffic"]),
            on_demand=frozenset(each["on_demand"]),
        )
        for each in content["models"]
    }
    return Catalog(
        models=models, default=content["default"], loading=content["loading"], not_ready=content["not_ready"]
    )
