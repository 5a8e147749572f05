"""The execution config of a version: from the settings, a tuned profile, or the default rule, in this order.

The default executor is in `default_executor`: on a machine without a GPU, ONNX Runtime in float32. The rule for
instances, threads and batches is in `engine.instance_group`.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from models.artifact.manifest import Manifest, Precision
from models.runtime import tuning
from models.runtime.tuning import Host, Measurement, NotTuned, TuningError
from service import executors
from service.core.cpus import available_cpus
from service.core.settings import Settings
from service.executors.base import ExecutorError
from service.messages.model import ConfigProvenance, Origin
from service.registry.default_executor import ENGINE, find_default, find_engine_precision

log = logging.getLogger(__name__)

_NAMES = frozenset({"executor", "precision", "threads", "max_batch"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConfig:
    """How a version is computed. None: by the rule of `engine.instance_group`."""

    executor: str
    """`NAME[:ARGUMENT]`."""
    precision: Precision
    threads: int | None = None
    """Threads of each instance."""
    instances: int | None = None
    """Instances per device."""
    single_image_threads: int | None = None
    """Threads of the instance for a single image; 0 for none."""
    max_batch: int | None = None
    """Most images per batch."""
    provenance: ConfigProvenance


def resolve_execution_config(settings: Settings, described: Manifest) -> ExecutionConfig:
    """Resolve the execution config of a version. Values that are set are used as they are, or loading fails."""
    names = _NAMES & settings.model_fields_set
    measured, reason = _find_measurement(settings, described, names)
    executor, precision = settings.executor, settings.precision
    if measured is not None:
        executor, precision = measured.executor, measured.precision
    elif "executor" not in names:
        default = find_default(settings.cache, described, settings.precision if "precision" in names else None)
        executor, precision = default.executor, default.precision
        reason = reason if default.reason is None else f"{default.reason}; {reason}"
    elif executor.partition(":")[0] == ENGINE and "precision" not in names:
        precision = find_engine_precision(settings.cache, described)

    def origin(name: str) -> Origin:
        return "set" if name in names else "default rule" if measured is None else "tuned"

    return ExecutionConfig(
        executor=executor,
        precision=precision,
        threads=settings.threads if measured is None else measured.threads,
        instances=settings.instances or (None if measured is None else measured.instances),
        single_image_threads=settings.single_image_threads,
        max_batch=settings.max_batch if measured is None or settings.max_batch else measured.batch,
        provenance=ConfigProvenance(
            executor=origin("executor"),
            precision=origin("precision"),
            threads=origin("threads"),
            max_batch=origin("max_batch"),
            reason=reason,
        ),
    )


def _find_measurement(
    settings: Settings, described: Manifest, names: AbstractSet[str]
) -> tuple[Measurement | None, str]:
    """The best measurement of the profile that agrees with the settings `names`, and the reason for the result."""
    if names == _NAMES:
        return None, "all values are set"
    try:
        profile = tuning.read(settings.cache, described, Host.here(available_cpus()))
    except NotTuned as error:
        return None, str(error)
    except TuningError as error:
        log.warning("%s version %d: the profile is not used: %s", described.name, described.version, error)
        return None, str(error)
    best = profile.best(
        settings.executor if "executor" in names else None,
        settings.precision if "precision" in names else None,
        settings.threads,
        settings.max_batch,
    )
    if best is None:
        return None, "no measurement agrees with the settings and keeps within its bounds"
    try:
        executors.find(best.executor).select_artifact(described, best.precision)
    except ExecutorError as error:
        log.warning("%s version %d: the profile is not used: %s", described.name, described.version, error)
        return None, str(error)
    rate = f"{best.images_per_second:,.1f} images/s with {best.latency_ms:.1f} ms per batch of {best.batch}"
    reason = f"measured on {profile.created:%Y-%m-%d}: {rate}"
    if best.disturbed:
        reason += ", while other processes used the CPUs: tune again on a quiet machine"
        log.warning("%s version %d: %s", described.name, described.version, reason)
    return best, reason
