"""What a version is computed with: what the settings say, else what was measured as best here, else the default rule.

The default rule is that of the settings' own defaults: ONNX Runtime on the CPU, in float32, with the threads and the
largest batch that are measured when the version is loaded. It is right everywhere, and the fastest hardly anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from models.artifact.manifest import Manifest, Precision
from models.runtime import tuning
from models.runtime.tuning import Host, Measurement, NotTuned, TuningError
from service import executors
from service.core.settings import Settings, available_cpus
from service.executors.base import ExecutorError
from service.messages.model import ConfigProvenance, Origin

log = logging.getLogger(__name__)

_NAMES = frozenset({"executor", "precision", "threads", "max_batch"})


@dataclass(frozen=True, slots=True)
class ExecutionConfig:
    """What computes a version, and why."""

    executor: str
    precision: Precision
    threads: int | None
    """None where it is to be measured, as for `max_batch`."""
    copies: int | None
    """Executors for each device; None for as many as there are processors for."""
    max_batch: int | None
    chosen: ConfigProvenance


def choose(settings: Settings, described: Manifest) -> ExecutionConfig:
    """What to compute a version with. What is set is not looked at twice: it is used, or loading fails."""
    said = _NAMES & settings.model_fields_set
    measured, reason = _measured(settings, described, said)

    def origin(name: str) -> Origin:
        return "set" if name in said else "default rule" if measured is None else "tuned"

    return ExecutionConfig(
        settings.executor if measured is None else measured.executor,
        settings.precision if measured is None else measured.precision,
        settings.threads if measured is None else measured.threads,
        settings.instances or (None if measured is None else measured.instances),
        settings.max_batch if measured is None or settings.max_batch else measured.batch,
        ConfigProvenance(
            executor=origin("executor"),
            precision=origin("precision"),
            threads=origin("threads"),
            max_batch=origin("max_batch"),
            reason=reason,
        ),
    )


def _measured(settings: Settings, described: Manifest, said: AbstractSet[str]) -> tuple[Measurement | None, str]:
    """The best measurement that agrees with what is set, and why it is that, or why there is none."""
    if said == _NAMES:
        return None, "all is set"
    try:
        found = tuning.read(settings.cache, described, Host.here(available_cpus()))
    except NotTuned as error:
        return None, str(error)
    except TuningError as error:
        log.warning("%s version %d: measurements are not used: %s", described.name, described.version, error)
        return None, str(error)
    best = found.best(
        settings.executor if "executor" in said else None,
        settings.precision if "precision" in said else None,
        settings.threads,
        settings.max_batch,
    )
    if best is None:
        return None, "no measurement agrees with what is set and keeps within its bounds"
    try:
        executors.find(best.executor).choose(described, best.precision)
    except ExecutorError as error:
        log.warning("%s version %d: measurements are not used: %s", described.name, described.version, error)
        return None, str(error)
    rate = f"{best.images_per_second:,.1f} images/s with {best.latency_ms:.1f} ms a batch of {best.batch}"
    return best, f"measured on {found.created:%Y-%m-%d}: {rate}"
