"""A plan whose launches are one convolution in several configurations, over the same tensors: it can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.kernels.network import Convolution, Network
from export.kernels.packing.context import Context
from export.kernels.packing.convolutions import convolution_with
from export.kernels.packing.planner import PlanDraft, assemble, make_context
from export.kernels.packing.weights import WeightStore
from export.kernels.tiles import NONE_MEASURED, KernelTarget, Tile
from models.runtime.cuda_engine.plan import Precision

_NO_FILE = "0" * 64


@dataclass(frozen=True)
class CandidateDraft:
    """A convolution in several configurations."""

    context: Context
    planned: PlanDraft
    """One program, with a launch for each configuration. It is no engine: it has neither images nor outputs."""


def draft_candidates(
    network: Network,
    conv: Convolution,
    precision: Precision,
    target: KernelTarget,
    batch: int,
    tiles: Sequence[Tile],
    compiler: str,
) -> CandidateDraft:
    """Plan the launches of a convolution.

    Args:
        network: the layers.
        conv: one of them.
        precision: precision of the engine.
        target: the GPUs.
        batch: batch size.
        tiles: the configurations, in the order of the launches.
        compiler: name and version of the compiler.

    Raises:
        UnsupportedNetwork: no kernel computes the convolution.
    """
    context = make_context(network, precision, target, batch, WeightStore(), NONE_MEASURED)
    calls = [convolution_with(context, conv, 0, tile) for tile in tiles]
    return CandidateDraft(context, assemble([(context, calls)], precision, _NO_FILE, compiler))
