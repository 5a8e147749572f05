"""A lease: a request holds its version, and its images count as in flight, until the response."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

from service.core.errors import ServiceError
from service.core.priority import Priority
from service.inference.admission import AdmissionTable
from service.inference.routing import resolve_version
from service.messages.backend import Backend
from service.messages.model import ServedModel
from service.telemetry import request_context


class Lease:
    """Holds a version, and counts images as in flight, while it is entered.

    A class: a generator with `contextmanager` takes twice the time.

    Raises:
        NotFound: on entering: there is no such model or version.
        Unavailable: on entering: the version is not served.
        Overloaded: on entering: the images are above the capacity, or would not be computed in time.
    """

    def __init__(
        self,
        backend: Backend,
        admission: AdmissionTable,
        name: str | None,
        version: str | None,
        images: int = 0,
        seconds: float = math.inf,
        priority: Priority = Priority.interactive,
    ) -> None:
        self._backend, self._admission, self._name, self._version = backend, admission, name, version
        self._images, self._seconds, self._priority = images, seconds, priority

    def __enter__(self) -> ServedModel:
        version = resolve_version(self._backend.catalog, self._name, self._version)
        model = self._model = self._backend.hold(self._name, version)
        request_context.current().version = model.version
        if self._images:
            try:
                self.admit(self._images, self._seconds, self._priority)
            except ServiceError:
                self._backend.release(model.key)
                raise
        return model

    def admit(self, images: int, seconds: float, priority: Priority) -> None:
        """Count images as in flight until the lease ends; arguments and errors are those of `Pipeline.admit`."""
        admission = self._admission.of(self._model)
        try:
            admission.check(images, seconds, priority)
        except ServiceError:
            self._backend.count_refused(self._model.key)
            self._images = 0
            raise
        admission.enter(images, priority)
        self._images, self._priority = images, priority

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._images:
            self._admission.of(self._model).leave(self._images, self._priority, error)
        self._backend.release(self._model.key)


@contextmanager
def holding(backend: Backend, models: Iterable[ServedModel]) -> Iterator[list[ServedModel]]:
    """Hold versions of the current catalog, so that none of them is gone while a response describes them."""
    held = [backend.hold(model.name, model.version) for model in models]
    try:
        yield held
    finally:
        for model in held:
            backend.release(model.key)
