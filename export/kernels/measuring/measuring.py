"""Measures the convolutions of a network that have not been measured for its GPU architecture.

    network ─► distinct convolutions ─► candidates ─► compile ─► time on the GPU ─► engine cache

The results are stored when all convolutions of a network are measured, and later builds use them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from export.errors import EngineError
from export.kernels.compile import COMPILER, Compiled, attempt_all
from export.kernels.linking import link
from export.kernels.measuring import stored, tensors
from export.kernels.measuring.candidates import candidates
from export.kernels.measuring.stored import StoredTilesError
from export.kernels.network import Convolution, Network
from export.kernels.packing.candidates import draft_candidates
from export.kernels.packing.convolutions import problem_of
from export.kernels.packing.launches import KernelKey
from export.kernels.packing.planner import make_context
from export.kernels.packing.weights import WeightStore
from export.kernels.tiles import NONE_MEASURED, KernelTarget, Measured, ProblemKey, Tile, TimedTile
from models.console import console
from models.progress import ProgressBar, progress_bar
from models.runtime import cuda_driver
from models.runtime.cuda import CudaError
from models.runtime.cuda_driver import NoDevice
from models.runtime.cuda_engine import cache as cuda_cache
from models.runtime.cuda_engine.plan import Precision
from models.runtime.engine_plan import ComputeCapability

log = logging.getLogger(__name__)


class NotMeasured(Exception):
    """Nothing can be measured, or measuring has failed; the message is one line with the reason."""


class GpuFailed(NotMeasured):
    """The GPU or its driver fails, and may fail until the process ends."""


@dataclass(frozen=True)
class _Task:
    """A convolution to measure at one batch size."""

    conv: Convolution
    key: ProblemKey
    tiles: tuple[Tile, ...]

    @property
    def name(self) -> str:
        key = self.key
        added = ", with a residual addition" if key.residual else ""
        stride = f", stride {key.stride}" if key.stride > 1 else ""
        shape = f"{key.kernel}x{key.kernel}, {key.inside} to {key.out} channels, {key.size} pixels"
        return f"{key.precision}, {shape}{stride}{added}, batch {key.batch}"


class Measuring:
    """Measurements of one command.

    Args:
        cache: folder of the engine cache, for the stored configurations.
        enabled: whether to measure; otherwise the stored configurations alone are used.
    """

    def __init__(self, cache: Path, enabled: bool = True) -> None:
        self._cache = cache
        self._enabled = enabled
        self._said: set[str] = set()

    def measure(
        self, network: Network, precision: Precision, wanted: KernelTarget, batches: Sequence[int]
    ) -> tuple[Measured, dict[KernelKey, Compiled]]:
        """The fastest configurations of a network's convolutions, stored or measured now.

        If they cannot be measured, a line has the reason, and those that are stored remain.

        Args:
            network: the layers.
            precision: precision of the engine.
            wanted: the GPUs.
            batches: batch sizes.

        Returns:
            The configurations, and kernels that were compiled for them.

        Raises:
            UnsupportedNetwork: no kernel computes the network.
            NoTriton: the compiler is not installed.
            OSError: the configurations cannot be stored.
        """
        capability = ComputeCapability.of_architecture(wanted.architecture)
        path = cuda_cache.tiles_file(self._cache, capability)
        known = self._read(path, wanted)
        tasks = _tasks(network, precision, wanted, batches, known)
        if not self._enabled or not tasks:
            return known, {}
        try:
            gpu = _find_gpu(capability)
            compiled = _compile(network, precision, wanted, tasks)
            measured = {**known, **_time(network, precision, wanted, tasks, compiled, gpu)}
        except NotMeasured as error:
            self._enabled = not isinstance(error, GpuFailed)
            self._say(f"configurations are not measured: {error}: the table and its rule choose them")
            return known, {}
        stored.write(path, wanted.architecture, COMPILER, measured)
        return measured, compiled

    def _read(self, path: Path, wanted: KernelTarget) -> Measured:
        try:
            return stored.read(path, wanted.architecture, COMPILER)
        except StoredTilesError as error:
            self._say(f"{error}: its configurations are not used")
            return NONE_MEASURED

    def _say(self, line: str) -> None:
        """Print a line, once."""
        if line not in self._said:
            self._said.add(line)
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _find_gpu(capability: ComputeCapability) -> int:
    """Number of the first GPU of a compute capability."""
    try:
        found = cuda_driver.devices()
    except NoDevice as error:
        raise NotMeasured(str(error)) from error
    same = [number for number, device in enumerate(found) if device.compute_capability == capability]
    if not same:
        names = ", ".join(f"{device.name} ({device.compute_capability})" for device in found)
        raise NotMeasured(f"this machine has no GPU of compute capability {capability}, only {names}")
    if not cuda_driver.has_bindings():
        raise NotMeasured("the package cuda-bindings is not installed")
    return same[0]


def _tasks(
    network: Network, precision: Precision, wanted: KernelTarget, batches: Sequence[int], known: Measured
) -> list[_Task]:
    """The distinct convolutions with more than one candidate whose fastest one is not known."""
    tasks: dict[ProblemKey, _Task] = {}
    for batch in sorted(set(batches)):
        context = make_context(network, precision, wanted, batch, WeightStore())
        for conv in network.convolutions:
            problem = problem_of(context, conv)
            tiles = candidates(problem, wanted)
            if len(tiles) > 1 and problem.key not in known:
                tasks.setdefault(problem.key, _Task(conv, problem.key, tiles))
    return list(tasks.values())


def _compile(
    network: Network, precision: Precision, wanted: KernelTarget, tasks: Sequence[_Task]
) -> dict[KernelKey, Compiled]:
    """The kernels of all candidates that can be compiled and fit the GPU. Their code is for any batch size."""
    first_task: dict[str, _Task] = {}
    tiles: dict[str, list[Tile]] = {}
    for task in tasks:
        first_task.setdefault(task.conv.name, task)
        known = tiles.setdefault(task.conv.name, [])
        known += [tile for tile in task.tiles if tile not in known]
    keys: dict[KernelKey, None] = {}
    for name, task in first_task.items():
        made = draft_candidates(network, task.conv, precision, wanted, task.key.batch, tuple(tiles[name]), COMPILER)
        keys |= dict.fromkeys(made.planned.keys)
    compiled = {}
    with progress_bar(f"compile candidates, {precision}", len(keys), "kernels") as bar:
        try:
            for done, (key, result) in enumerate(
                zip(keys, attempt_all(list(keys), wanted.architecture), strict=True), 1
            ):
                bar.update(done)
                if isinstance(result, EngineError):
                    log.debug("left out: %s", result)
                else:
                    compiled[key] = result
        except EngineError as error:
            raise NotMeasured(str(error)) from error
    return compiled


def _time(
    network: Network,
    precision: Precision,
    wanted: KernelTarget,
    tasks: Sequence[_Task],
    compiled: dict[KernelKey, Compiled],
    gpu: int,
) -> dict[ProblemKey, TimedTile]:
    """The fastest candidate of each task."""
    done, fastest = 0, {}
    with progress_bar(f"measure candidates, {precision}", sum(len(task.tiles) for task in tasks), "candidates") as bar:
        for task in tasks:
            try:
                timed = _time_task(network, precision, wanted, task, compiled, gpu, bar)
            except (CudaError, RuntimeError) as error:  # cuda-bindings raise it if the driver lacks a function
                raise GpuFailed(f"the GPU failed with a convolution ({task.name}): {error}") from error
            if timed:
                fastest[task.key] = min(timed, key=lambda each: each.microseconds)
            done += len(task.tiles)
            bar.update(done)
    return fastest


def _time_task(
    network: Network,
    precision: Precision,
    wanted: KernelTarget,
    task: _Task,
    compiled: dict[KernelKey, Compiled],
    gpu: int,
    bar: ProgressBar,
) -> list[TimedTile]:
    """The candidates that compute the right values, with their times."""
    from export.kernels.measuring.timing import time_launches  # its bindings need not be installed without a GPU

    plan_of = partial(draft_candidates, network, task.conv, precision, wanted, task.key.batch, compiler=COMPILER)
    planned = plan_of(task.tiles).planned
    kernels = [launch.kernel for launch in planned.plan.programs[0].launches]
    tiles = [tile for tile, kernel in zip(task.tiles, kernels, strict=True) if planned.keys[kernel] in compiled]
    if not tiles:
        return []
    drafted = plan_of(tiles)
    plan, cubins = link(drafted.planned, [compiled[key] for key in drafted.planned.keys])
    times = time_launches(
        gpu,
        plan,
        cubins,
        drafted.planned.weights,
        tensors.inputs(drafted.context, task.conv),
        [form.name for form in task.conv.forms],
        partial(tensors.agree, drafted.context, task.conv),
    )
    for tile, time in zip(tiles, times, strict=True):
        if time is None:
            bar.note(f"left out, because its output is wrong: {task.name}: {tile}")
    return [TimedTile(tile, time) for tile, time in zip(tiles, times, strict=True) if time is not None]
