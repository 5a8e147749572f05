"""Executors compute batches. There is one file per runtime; it is imported only if its executor is chosen.

The file `some_runtime.py` is the executor `some-runtime`. It defines `EXECUTOR`, which makes an executor from a
`Source`; `ARTIFACTS`, the artifact (format, precision) of a version that each precision is computed from; and `DEVICE`,
the kind of device that it computes on: cpu, gpu or simulated. No other file lists the executor: the service, tests and
benchmarks find it here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from models.artifact.manifest import Artifact, Manifest, Precision
from models.extras import EXTRAS, missing
from service.executors.base import Executor, ExecutorError, Source, closed_on_error

DeviceKind = Literal["cpu", "gpu", "simulated"]


@dataclass(frozen=True)
class Runtime:
    """An executor that is available here, with its argument."""

    name: str
    argument: str
    """The part after the colon of the executor's name, with a comma between devices."""
    make: Callable[[Source], Executor]
    """Loads an instance. Raises ExecutorError if it cannot be loaded."""
    artifacts: Mapping[Precision, tuple[str, Precision]]
    """The artifact (format, precision) that each precision is computed from. Several runtimes share a format, and some
    compute with less precision than the file has."""
    device: DeviceKind
    """Kind of device that the runtime computes on."""

    def select_artifact(self, manifest: Manifest, precision: Precision) -> Artifact:
        """The artifact of a version that a precision is computed from.

        Raises:
            ExecutorError: the runtime does not support the precision, or the version has no such artifact.
        """
        if precision not in self.artifacts:
            raise ExecutorError(f"{self.name} does not compute in {precision}; it does in: {', '.join(self.artifacts)}")
        for artifact in manifest.artifacts:
            if (artifact.format, artifact.precision) == self.artifacts[precision]:
                return artifact
        files = ", ".join(artifact.file for artifact in manifest.artifacts)
        how = "again" if precision in ("float32", "bfloat16") else f"again with --{precision}"
        raise ExecutorError(
            f"{manifest.name} version {manifest.version} has no file that {self.name} computes {precision} from, only "
            f"{files}: export it {how}"
        )

    def load(self, source: Source, instances: int = 1) -> list[Executor]:
        """Load instances of a source on each device that the argument names.

        Args:
            source: the version; its argument is replaced by that of each device.
            instances: number of instances per device.

        Raises:
            ExecutorError: an instance cannot be loaded; those that were loaded are closed.
        """
        loaded: list[Executor] = []
        with closed_on_error(loaded):
            for argument in self.argument.split(",") * instances:
                loaded.append(self.make(replace(source, argument=argument)))
        return loaded


def names() -> list[str]:
    """Names of all executors, installed or not."""
    return sorted(
        _name(module.name) for module in pkgutil.iter_modules(__path__) if not module.ispkg and module.name != "base"
    )


def find(name: str) -> Runtime:
    """The executor with a name `NAME[:ARGUMENT[,ARGUMENT...]]`.

    Raises:
        ExecutorError: there is no such executor, its runtime is not installed, or it is installed but cannot be loaded.
    """
    name, _, argument = name.partition(":")
    if name not in names():
        raise ExecutorError(f"no executor is named {name!r}; there are: {', '.join(names())}")
    try:
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("service"):
            raise
        package = str(error.name).partition(".")[0]
        raise ExecutorError(missing(f"executor {name}", package, EXTRAS.get(package, package))) from error
    except ImportError as error:
        raise ExecutorError(f"the runtime of executor {name!r} is installed but cannot be loaded: {error}") from error
    return Runtime(name, argument, module.EXECUTOR, module.ARTIFACTS, module.DEVICE)


def _name(module: str) -> str:
    return module.replace("_", "-")
