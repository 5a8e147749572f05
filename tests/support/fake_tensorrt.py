"""A TensorRT that builds nothing: its plan is a JSON text of what it was told, and its inspector says all is fused.

It is as strict as the real one where code could rely on it: profiles are checked, and a plan of another version, or
what is no plan, gives None.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from export.fusion import residual_adds
from tests.support import recorded


def module(version: str) -> ModuleType:
    """`tensorrt` with the names of one of `recorded.VERSIONS`."""
    return recorded.module(version, {kind.__name__[1:]: kind for kind in _BEHAVIOUR})


class _Builder:
    _trt: Any

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        network = self._trt.INetworkDefinition()
        network._strongly_typed = bool(flags & 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return network

    def create_builder_config(self) -> Any:
        config = self._trt.IBuilderConfig()
        config._logger = self._logger
        return config

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        monitor = config._monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        told = {
            "version": self._trt.__version__,
            "strongly_typed": network._strongly_typed,
            "adds": [node.name for node in residual_adds(network._model.graph)],
            "flags": sorted(config._flags),
            "hardware": config.hardware_compatibility_level.name,
            "verbosity": config.profiling_verbosity.name,
            "profiles": [profile._shapes for profile in config._profiles],
            "timings": config._timings._content.decode(),
        }
        config._timings._content = b"timed"
        return json.dumps(told).encode()


class _INetworkDefinition:
    _trt: Any
    _strongly_typed = False
    _model = onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output)

    def get_input(self, index: int) -> Any:
        return self._tensor(self._model.graph.input[index])

    def get_output(self, index: int) -> Any:
        return self._tensor(self._model.graph.output[index])

    def _tensor(self, value: Any) -> Any:
        tensor = self._trt.ITensor()
        tensor.name = value.name
        tensor.shape = tuple(size.dim_value or -1 for size in value.type.tensor_type.shape.dim)
        return tensor


class _OnnxParser:
    _trt: Any

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        try:
            self._network._model = onnx.load_from_string(Path(path).read_bytes())
        except Exception:  # protobuf's own
            return False
        return True

    def get_error(self, index: int) -> Any:
        return self._trt.ParserError()


class _ParserError:
    _trt: Any

    def code(self) -> int:
        return int(self._trt.ErrorCode.MODEL_DESERIALIZE_FAILED)

    def desc(self) -> str:
        return "Failed to parse the ONNX model."

    def node_operator(self) -> str:
        return ""

    def node_name(self) -> str:
        return ""


class _IBuilderConfig:
    _trt: Any
    _logger: Any
    _monitor: Any = None
    profiling_verbosity: Any = None
    hardware_compatibility_level: Any = None

    def __init__(self) -> None:
        self.profiling_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = self._trt.HardwareCompatibilityLevel.NONE
        self._flags = {"TF32"}
        self._profiles: list[Any] = []
        self._timings = self.create_timing_cache(b"")

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        self._monitor = monitor

    def set_flag(self, flag: recorded.Member) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: recorded.Member) -> None:
        self._flags.discard(flag.name)

    def add_optimization_profile(self, profile: Any) -> int:
        for shapes in profile._shapes.values():
            if any(small > large for small, large in pairwise(shapes)):
                self._logger.log(self._trt.ILogger.ERROR, "Invalid optimization profiles: MIN<=OPT<=MAX")
                return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, content: bytes) -> Any:
        cache = self._trt.ITimingCache()
        cache._content = content
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._content not in (b"", b"timed"):
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timings


class _ITimingCache:
    _content = b""

    def serialize(self) -> bytes:
        return self._content


class _IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, *shapes: Sequence[int]) -> None:
        self._shapes[name] = [list(shape) for shape in shapes]


class _Runtime:
    _trt: Any
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        try:
            told = json.loads(content)
        except ValueError:
            told = {}
        if told.get("version") != self._trt.__version__:
            self._logger.log(self._trt.ILogger.ERROR, "Version tag does not match.")
            return None
        engine = self._trt.ICudaEngine()
        engine._told = told
        return engine


class _ICudaEngine:
    _trt: Any
    _told: dict[str, Any]

    def create_engine_inspector(self) -> Any:
        inspector = self._trt.EngineInspector()
        inspector._told = self._told
        return inspector


class _EngineInspector:
    _trt: Any
    _told: dict[str, Any]

    def get_engine_information(self, format: object) -> str:
        assert format is self._trt.LayerInformationFormat.JSON
        layers = [{"Name": f"Conv + {add}", "LayerType": "CaskConvolution"} for add in self._told["adds"]]
        return json.dumps({"Layers": layers})


_BEHAVIOUR = (
    _Builder, _INetworkDefinition, _OnnxParser, _ParserError, _IBuilderConfig, _ITimingCache, _IOptimizationProfile,
    _Runtime, _ICudaEngine, _EngineInspector,
)  # fmt: skip
