"""Leases: a request holds its version, and its images count as in flight, until the response.

Both are classes with `__enter__` and `__exit__`: a generator with `contextmanager` takes twice the time.
"""

from __future__ import annotations

from types import TracebackType

from service.core.errors import ServiceError
from service.core.priority import Priority
from service.inference.admission import AdmissionTable
from service.messages.backend import Backend
from service.messages.model import ServedModel
from service.telemetry import request_context


class VersionLease:
    """Holds a version while it is entered.

    Raises:
        NotFound: on entering: there is no such model or version.
        Unavailable: on entering: the version is not served.
    """

    __slots__ = ("_backend", "_key", "_name", "_version")

    def __init__(self, backend: Backend, name: str | None, version: str | None) -> None:
        self._backend, self._name, self._version = backend, name, version

    def __enter__(self) -> ServedModel:
        model = self._backend.hold(self._name, self._version)
        self._key = model.key
        request_context.current().version = model.version
        return model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._backend.release(self._key)


class AdmittedImages:
    """Counts images as in flight while it is entered.

    Raises:
        Overloaded: on entering: the images do not fit, or would not be computed in time.
    """

    __slots__ = ("_admission", "_backend", "_images", "_model", "_priority", "_seconds")

    def __init__(
        self,
        backend: Backend,
        admission: AdmissionTable,
        model: ServedModel,
        images: int,
        seconds: float,
        priority: Priority,
    ) -> None:
        self._backend, self._admission, self._model = backend, admission, model
        self._images, self._seconds, self._priority = images, seconds, priority

    def __enter__(self) -> None:
        admission = self._admission.of(self._model)
        try:
            admission.check(self._images, self._seconds, self._priority)
        except ServiceError:
            self._backend.count_refused(self._model.key)
            raise
        admission.enter(self._images, self._priority)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.of(self._model).leave(self._images, self._priority, error)


class AdmittedVersion:
    """A `VersionLease` and `AdmittedImages` in one."""

    __slots__ = ("_images", "_lease", "_request")

    def __init__(
        self,
        backend: Backend,
        admission: AdmissionTable,
        name: str,
        version: str | None,
        images: int,
        seconds: float,
        priority: Priority,
    ) -> None:
        self._lease = VersionLease(backend, name, version)
        self._request = backend, admission, images, seconds, priority

    def __enter__(self) -> ServedModel:
        model = self._lease.__enter__()
        backend, admission, images, seconds, priority = self._request
        self._images = AdmittedImages(backend, admission, model, images, seconds, priority)
        try:
            self._images.__enter__()
        except BaseException:
            self._lease.__exit__(None, None, None)
            raise
        return model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._images.__exit__(kind, error, traceback)
        self._lease.__exit__(kind, error, traceback)
