"""The computing side, as the answering side sees it."""

from __future__ import annotations

from typing import Protocol

from models.artifact.traffic import TrafficPolicy
from service.messages.catalog import Catalog
from service.messages.inference import InferenceRequest, InferenceResult, ResultReceiver
from service.messages.lesion import LesionRequest
from service.messages.model import ServedModel
from service.messages.status import DifferingImage, ModelStatus, PlanStatus, ShadowStatus, VersionStatus
from service.telemetry.statistics import Statistics


class Cancel(Protocol):
    """Ends a request whose result is not wanted any more."""

    def __call__(self) -> object: ...


class Backend(Protocol):
    """Loads models and computes images. Only values are passed, so an implementation can be in another process."""

    @property
    def catalog(self) -> Catalog:
        """The versions that are served now."""
        ...

    def hold(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """As `Catalog.find`; the version is not freed before `release` was called with its key, once per call."""
        ...

    def release(self, key: int) -> None:
        """End one `hold` of a version."""
        ...

    async def submit(self, key: int, request: InferenceRequest) -> InferenceResult:
        """Compute images with a version that the caller holds.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed.
            InferenceFailed: the executor raised.
            Unavailable: the version cannot compute any more.
        """
        ...

    async def lesion(self, key: int, request: LesionRequest) -> InferenceResult:
        """Compute an image with all blocks, and without some, with a version that the caller holds and that has
        `lesion_blocks`. It waits for moments in which no other image is computed.

        Raises:
            Overloaded: too many of these requests wait, other images are computed all the time, or there is no memory.
            DeadlineExceeded: the deadline passed.
            InferenceFailed: ONNX Runtime failed.
            Unavailable: the graph cannot be loaded.
        """
        ...

    def count_refused(self, key: int) -> None:
        """Count a request for a version that was refused before it was submitted."""
        ...

    async def statistics(self, key: int) -> Statistics:
        """Counts of a version since it was loaded."""
        ...

    async def plan_status(self, key: int) -> PlanStatus | None:
        """State of the engine of a version; None if none is needed and none was built."""
        ...

    async def versions(self, name: str) -> list[VersionStatus]:
        """Every version of a model that is in the repository or in memory, oldest first."""
        ...

    async def statuses(self) -> list[ModelStatus]:
        """Every model and version that is in the repository or in memory."""
        ...

    async def shadows(self, name: str) -> list[ShadowStatus]:
        """The versions of a model that compute images of others again, and how far both agree."""
        ...

    async def differing(self, name: str) -> list[DifferingImage]:
        """The images on which shadows of a model differed last, newest first, if the policy keeps any."""
        ...

    async def not_ready(self) -> list[str]:
        """Reasons why the service cannot answer; empty when it is ready."""
        ...

    async def degraded(self) -> list[str]:
        """Limitations of models that are served: lost devices, and engines that are missing or unusable."""
        ...

    async def demand(self, name: str, seconds: float) -> None:
        """Load a model that is not in memory, with a limit of memory, for a request that waits for it.

        Args:
            name: name of the model.
            seconds: longest wait.

        Raises:
            NotFound: there is no such model.
            ModelNotLoaded: the wait would be longer, or there is no memory.
            Unavailable: the model cannot be loaded.
        """
        ...

    async def load(self, name: str) -> None:
        """Serve a model that was unloaded, and load again versions that failed or that have no engine yet.

        Raises:
            NotFound: the repository has no such model.
            Unavailable: a version that should be served cannot be loaded.
        """
        ...

    async def unload(self, name: str) -> None:
        """Serve no version of a model until it is loaded again.

        Raises:
            NotFound: the repository has no such model.
        """
        ...

    async def set_traffic(self, name: str, policy: TrafficPolicy | None) -> None:
        """Change how the requests of a model are shared among its versions, and wait until these are loaded.

        Args:
            name: the model.
            policy: the shares; None: the newest version gets the requests that name none.

        Raises:
            NotFound: the repository has no such model.
            BadRequest: the repository has no such version.
            Unavailable: there is no traffic file, or it cannot be written.
        """
        ...


class LocalBackend(Backend, Protocol):
    """A backend in this process."""

    def begin(self, key: int, request: InferenceRequest, outcome: ResultReceiver) -> Cancel:
        """As `submit`, without waiting: the outcome is given the result or the error, but no error at the deadline.

        Returns:
            Ends the request, if it has no result yet.
        """
        ...
