"""Executors compute batches: one file a runtime, found by its name and imported only when it is chosen.

A file `some_runtime.py` here is the executor `some-runtime`. It holds `Executor`, which makes one of a `Source`;
`ARTIFACTS`, from which artifact (format, precision) of a version it computes each precision; and `DEVICES`, where it
computes (cpu, gpu), with the argument that chooses it. Nothing else lists it: tests and benchmarks find it here too.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from models.artifact.manifest import Artifact, Manifest, Precision
from service.executors.base import Executor, ExecutorError, Source, closed_on_error


@dataclass(frozen=True)
class Runtime:
    """An executor that can be had here."""

    name: str
    argument: str
    """One for each executor that is to be made, with commas between them."""
    make: Callable[[Source], Executor]
    """Loads one. Raises ExecutorError where it cannot be."""
    artifacts: Mapping[Precision, tuple[str, Precision]]
    """The artifact (format, precision) that it computes each precision from. One format serves several runtimes, and
    some compute in less than what the file holds."""
    devices: Mapping[str, str]
    """Where it computes, cpu or gpu, and the argument that chooses it."""

    def choose(self, manifest: Manifest, precision: Precision) -> Artifact:
        """The artifact of a version that is computed in this precision.

        Raises:
            ExecutorError: the runtime has no such precision, or the version no such artifact.
        """
        if precision not in self.artifacts:
            raise ExecutorError(f"{self.name} does not compute in {precision}; it does in: {', '.join(self.artifacts)}")
        for artifact in manifest.artifacts:
            if (artifact.format, artifact.precision) == self.artifacts[precision]:
                return artifact
        there = ", ".join(artifact.file for artifact in manifest.artifacts)
        how = "again" if precision in ("float32", "bfloat16") else f"again with --{precision}"
        raise ExecutorError(
            f"{manifest.name} version {manifest.version} has nothing that {self.name} computes {precision} from, only "
            f"{there}: export it {how}"
        )

    def load(self, source: Source, copies: int = 1) -> list[Executor]:
        """So many executors of a source for each of the runtime's arguments.

        Raises:
            ExecutorError: one of them cannot be loaded.
        """
        loaded: list[Executor] = []
        with closed_on_error(loaded):
            for argument in self.argument.split(",") * copies:
                loaded.append(self.make(replace(source, argument=argument)))
        return loaded


def names() -> list[str]:
    """Of all executors, installed or not."""
    return sorted(
        _name(module.name) for module in pkgutil.iter_modules(__path__) if not module.ispkg and module.name != "base"
    )


def find(name: str) -> Runtime:
    """The executor of a name `NAME[:ARGUMENT[,ARGUMENT...]]`.

    Raises:
        ExecutorError: no such executor, or its runtime is not installed, or is and cannot be loaded.
    """
    name, _, argument = name.partition(":")
    if name not in names():
        raise ExecutorError(f"no executor is named {name!r}; there are: {', '.join(names())}")
    try:
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("service"):
            raise
        raise ExecutorError(f"executor {name!r} needs the package {error.name!r}: install it") from error
    except ImportError as error:
        raise ExecutorError(f"the runtime of executor {name!r} is installed but cannot be loaded: {error}") from error
    return Runtime(name, argument, module.Executor, module.ARTIFACTS, module.DEVICES)


def _name(module: str) -> str:
    return module.replace("_", "-")
