"""Compares each convolution and pool of int8 values with the integer reference, on the inputs that it had."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.kernels.network import Convolution, Network, Window
from export.kernels.packing.layout import Layout, layouts, pixel_layout
from models.runtime.cuda_engine.plan import LaunchPlan, MapArgument, Pointer
from tests.support.interpreter.launcher import Memory
from tests.support.interpreter.reference import expected_forms, expected_windows

Array = NDArray[Any]
_DTYPES = {"i8": torch.int8, "fp16": torch.float16}


class IntegerCheck:
    """Counts elements that differ, per convolution."""

    def __init__(self, network: Network, plan: LaunchPlan) -> None:
        self._network, self._plan = network, plan
        self._layouts = layouts(network, "fp16")
        self._pixels = pixel_layout(network, "i8")
        self._scales = {form.name: form.scale for form in network.forms}
        self.different: dict[str, int] = {}
        self.compared: dict[str, int] = {}

    def __call__(self, number: int, memory: Memory) -> None:
        """Compare the results of a launch."""
        launch = memory.program.launches[number]
        layer = launch.layer - 1  # the first row of the table is the pixels
        step = self._network.steps[layer] if layer >= 0 else None
        if not isinstance(step, Convolution | Window) or self._scales[step.source] is None:
            return
        names = [parameter.name for parameter in self._plan.kernels[launch.kernel].parameters]
        given: dict[str, Pointer] = {}
        for name, argument in zip(names, launch.arguments, strict=True):
            if isinstance(argument, Pointer):
                given[name] = argument
            elif isinstance(argument, MapArgument):
                given[name] = memory.program.tensor_maps[argument.tensor_map].address
        expected = self._expected(memory, step, given)
        first = step.forms[0]
        for form in step.forms:
            pointer = given["y" if form is first and form.affine is None else "z"]
            found = self._read(memory, form.name, pointer)
            self.different[form.name] = int((found != expected[form.name]).sum())
            if isinstance(step, Convolution):
                self.compared[step.name] = found.size

    def _expected(self, memory: Memory, step: Convolution | Window, given: dict[str, Pointer]) -> dict[str, Array]:
        scale = self._scales[step.source] or 1.0
        if isinstance(step, Window):
            return expected_windows(step, self._read(memory, step.source, given["x"]), scale)
        residual = None if step.residual is None else self._read(memory, step.residual, given["res"])
        residual_scale = self._scales.get(step.residual or "", None) or 1.0
        return expected_forms(step, self._input(memory, step, given), scale, residual, residual_scale)

    def _input(self, memory: Memory, conv: Convolution, given: dict[str, Pointer]) -> Array:
        batch = memory.program.batch
        if conv.source == self._network.pixels.form.name:
            layout, image = self._pixels, self._network.image
            content = memory.at(given["x"], torch.int8).numpy()
            whole = content.reshape(batch, layout.rows, layout.pitch, layout.channels)
            start = layout.padding
            inside = whole[:, start : start + image.height, start : start + image.width, : image.channels]
            return np.ascontiguousarray(inside)
        if "xd" in given:
            return self._read(memory, conv.source, given["xd"])
        layout_of = self._layouts[conv.source]
        return self._read(memory, conv.source, given["x"], layout_of.margin * layout_of.channels)

    def _read(self, memory: Memory, name: str, pointer: Pointer, start: int = 0) -> Array:
        """A form as [n, height, width, channels], whose first element is at a place behind a pointer."""
        layout: Layout = self._layouts[name]
        flat = memory.at(pointer, _DTYPES[layout.element])
        shape, channels = layout.shape, layout.channels
        view = flat.as_strided(
            (memory.program.batch, shape.height, shape.width, shape.channels),
            (layout.plane * channels, layout.pitch * channels, channels, 1),
            flat.storage_offset() + start,
        )
        return view.numpy().copy()
