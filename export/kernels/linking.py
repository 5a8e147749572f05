"""A plan with its compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence

from export.errors import EngineError
from export.kernels.compile import Compiled, check_parameters
from export.kernels.packing.planner import PlanDraft
from models.runtime.cuda_engine.plan import Binary, LaunchPlan, MapArgument, Program


def link(planned: PlanDraft, compiled: Sequence[Compiled]) -> tuple[LaunchPlan, list[bytes]]:
    """The plan with what the compiler made, and its cubins; equal ones are stored once.

    Args:
        planned: the plan.
        compiled: its kernels, in their order.

    Raises:
        EngineError: a compiled kernel does not fit the plan.
    """
    cubins: dict[bytes, int] = {}
    kernels = []
    for kernel, each in zip(planned.plan.kernels, compiled, strict=True):
        check_parameters(kernel, each)
        binary = Binary(
            cubin=cubins.setdefault(each.cubin, len(cubins)),
            function=each.function.name,
            shared_bytes=each.shared_bytes,
            registers=each.function.registers,
            stack_bytes=each.function.stack_bytes,
        )
        kernels.append(kernel.model_copy(update={"binary": binary}))
    programs = tuple(_with_maps(planned.plan, program, compiled) for program in planned.plan.programs)
    return planned.plan.model_copy(update={"kernels": tuple(kernels), "programs": programs}), list(cubins)


def _with_maps(plan: LaunchPlan, program: Program, compiled: Sequence[Compiled]) -> Program:
    """A program whose tensor maps have the box and the swizzle that the compiler chose.

    A map is used with one pair of them: its box is a part of its key in the planner, and the swizzle follows from it.
    """
    maps = list(program.tensor_maps)
    chosen: dict[int, tuple[tuple[int, ...], int]] = {}
    for launch in program.launches:
        made = compiled[launch.kernel]
        used = [argument.tensor_map for argument in launch.arguments if isinstance(argument, MapArgument)]
        for number, box, swizzle in zip(used, made.boxes, made.swizzles, strict=True):
            setting = (box[::-1], swizzle)
            if chosen.setdefault(number, setting) != setting:
                raise EngineError(f"{plan.kernels[launch.kernel].name}: two kernels read one tensor map differently")
            maps[number] = maps[number].model_copy(update={"box": setting[0], "swizzle": swizzle})
    return program.model_copy(update={"tensor_maps": tuple(maps)})
