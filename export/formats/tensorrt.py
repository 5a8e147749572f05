"""Engines of TensorRT and of TensorRT for RTX, by one builder for both modules.

TensorRT 10 and 11 and both flavours differ in features, which are detected with hasattr, not by version. The network is
strongly typed, so every layer is computed in the precision of the ONNX file.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

from export.errors import BadProfile, EngineError, UnreadableModel, UnsupportedDevice, UnsupportedOperator
from models.artifact.manifest import INPUT
from models.files import atomic_write
from models.progress import Phases, phases
from models.runtime.engine_plan import BatchRange, ComputeCapability, Hardware

DEFAULT_BATCHES = (
    BatchRange(min=1, opt=1, max=1),
    BatchRange(min=2, opt=8, max=8),
    BatchRange(min=9, opt=32, max=32),
)

_REQUIRED_OUTPUTS = ("logits", "probabilities")
"""Outputs of every graph, including imported ones."""
_HARDWARE: dict[Hardware, str] = {"compute-capability": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}
_NOT_FOR_THIS_GPU = re.compile(r"\bSM ?\d.*not supported")


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build, which decide where the engine runs."""

    batches: tuple[BatchRange, ...] = DEFAULT_BATCHES
    """One optimisation profile each."""
    version_compatible: bool = False
    """Whether later versions of the same major version can run the engine, which excludes some kernels."""
    hardware: Hardware = "device"
    """GPUs that can run the engine; more GPUs exclude more kernels."""


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine."""

    content: bytes
    """The plan, as the runtime reads it."""
    layers: str
    """TensorRT for RTX: its log of the layers. TensorRT describes them by its inspector."""


def build(
    trt: Any,
    path: Path,
    options: BuildOptions = BuildOptions(),
    *,
    compute_capability: ComputeCapability | None = None,
    timing: Path | None = None,
) -> BuiltEngine:
    """Build an engine, with progress bars on standard error.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        path: ONNX file.
        options: options of the build.
        compute_capability: TensorRT for RTX: the GPU to build for; by default any since Ampere. TensorRT builds for the
            GPU of this machine.
        timing: file of the timing cache, which speeds up later builds.

    Raises:
        EngineError: no engine can be built; the class tells the kind of error.
        OSError: the timing file cannot be read or written.
    """
    log = _make_log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # the bindings' error for a null pointer
        raise _failure(log) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)  # owns the weights: must live until the engine is built
    _parse(trt, parser, network, path)
    config = builder.create_builder_config()
    _configure(trt, config, options, compute_capability)
    _add_profiles(builder, network, config, options.batches, log)
    _read_timings(config, timing)
    with phases(f"building an engine from {path.name}") as bars, _ctrl_c() as stopped:
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = _make_monitor(trt, bars, stopped)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(log)
    _write_timings(config, timing)
    return BuiltEngine(bytes(plan), log.layers)


def inspect(trt: Any, engine: BuiltEngine) -> str:
    """TensorRT's description of an engine's layers as JSON. Needs the GPU that the engine was built for.

    Raises:
        EngineError: the runtime cannot load the engine.
    """
    log = _make_log(trt)
    runtime = trt.Runtime(log)
    # A version-compatible engine contains a runtime of its own; this engine was just built here.
    runtime.engine_host_code_allowed = True
    loaded = runtime.deserialize_cuda_engine(engine.content)
    if loaded is None:
        raise EngineError(f"the engine that was just built cannot be loaded: {log.reason()}")
    text: str = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return text


def _make_log(trt: Any) -> Any:
    class BuildLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.layers = ""
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if message.startswith("Layers:"):
                self.layers = message
            elif severity <= trt.ILogger.ERROR:
                self.errors.append(message)

        def reason(self) -> str:
            # Later errors are consequences of the first one.
            return " ".join(self.errors[0].split()) if self.errors else "the log has no reason"

    return BuildLog()


def _make_monitor(trt: Any, bars: Phases, stopped: Event) -> Any:
    """A progress monitor, which also tells TensorRT to stop after Ctrl-C."""

    class BuildMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            bars.start(phase, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            bars.update(phase, step + 1)
            return not stopped.is_set()

        def phase_finish(self, phase: str) -> None:
            bars.finish(phase)

    return BuildMonitor()


@contextmanager
def _ctrl_c() -> Iterator[Event]:
    """An event that Ctrl-C sets; KeyboardInterrupt is raised at the end of the block.

    Raised at once, in a function that TensorRT calls, it would pass through C++, which drops it or ends the process.
    """
    stopped = Event()
    if current_thread() is not main_thread():  # signals go to the main thread only
        yield stopped
        return
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped.is_set():
        raise KeyboardInterrupt


def _parse(trt: Any, parser: Any, network: Any, path: Path) -> None:
    if not parser.parse_from_file(str(path)):
        error = parser.get_error(0)
        if error.node_operator() and error.code() != trt.ErrorCode.INVALID_GRAPH:
            raise UnsupportedOperator(
                f"TensorRT does not support the node {error.node_name()} ({error.node_operator()}): {error.desc()}"
            )
        raise UnreadableModel(f"TensorRT cannot read it: {error.desc()}")
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    if inputs != [INPUT] or not set(_REQUIRED_OUTPUTS) <= set(outputs):
        raise UnreadableModel(f"takes {inputs} and gives {outputs}, not {[INPUT]} and {list(_REQUIRED_OUTPUTS)}")


def _configure(trt: Any, config: Any, options: BuildOptions, compute_capability: ComputeCapability | None) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # needed to read which additions are fused
    config.clear_flag(trt.BuilderFlag.TF32)  # otherwise float32 layers are rounded to TF32
    if hasattr(config, "set_compute_capability"):
        if options.version_compatible or options.hardware != "device":
            raise EngineError("TensorRT for RTX has no version- or hardware-compatible engines: leave the option out")
        if compute_capability is not None:
            _target(trt, config, compute_capability)
        return
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware != "device":
        name = _HARDWARE[options.hardware]
        if not hasattr(trt.HardwareCompatibilityLevel, name):
            raise EngineError(f"TensorRT {trt.__version__} has no engines that are compatible by {options.hardware}")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, name)


def _target(trt: Any, config: Any, wanted: ComputeCapability) -> None:
    """Select one compute capability for TensorRT for RTX, also that of a GPU of another machine."""
    chosen = getattr(trt.ComputeCapability, wanted.sm.upper(), None)
    config.num_compute_capabilities = 1
    if chosen is None or not config.set_compute_capability(chosen, 0):
        known = sorted(int(name[2:]) for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name))
        there = ", ".join(f"{number // 10}.{number % 10}" for number in known)
        raise UnsupportedDevice(f"TensorRT for RTX does not build for compute capability {wanted}, only for {there}")


def _add_profiles(builder: Any, network: Any, config: Any, batches: tuple[BatchRange, ...], log: Any) -> None:
    image = tuple(network.get_input(0).shape)[1:]
    for batch in batches:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *((size, *image) for size in (batch.min, batch.opt, batch.max)))
        if config.add_optimization_profile(profile) < 0:
            raise BadProfile(f"batches of {batch.min} to {batch.max}, best at {batch.opt}: {log.reason()}")


def _read_timings(config: Any, file: Path | None) -> None:
    if file is None:
        return
    content = file.read_bytes() if file.exists() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):  # of another version or GPU: begin with an empty one
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write_timings(config: Any, file: Path | None) -> None:
    if file is not None:
        # Of two builds at the same time, the later one overwrites the file; that only costs time later.
        atomic_write(file, bytes(config.get_timing_cache().serialize()))


def _failure(log: Any) -> EngineError:
    reason = log.reason()
    kind = UnsupportedDevice if _NOT_FOR_THIS_GPU.search(reason) else EngineError
    return kind(f"no engine was built: {reason}")
