"""`model.lesion.onnx`: the network with one more input, a factor for the residual branch of each block.

With the factor 0 a block is deleted: its shortcut alone remains (Veit et al. 2016, section 4.1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import BuildError
from export.formats import onnx as onnx_format
from export.graph import ServingGraph
from export.lint import check_portable
from export.samples import Samples, evenly_spaced
from export.verify import OnnxRunner, check_parity
from models.architectures import ResNet
from models.architectures.lesions import block_names, blocks_of, changes_shape, without_blocks
from models.artifact import manifest
from models.artifact.manifest import INPUT, LESION_FILE, LESION_INPUT, OUTPUTS, Artifact, Lesion, LesionBlock
from models.artifact.parity import MAX_LOGIT_ERROR, ParityError
from models.imaging.preprocess import Preprocess, UInt8Array
from models.training.evaluate import predict

_IMAGES = 4
"""Images on which each deleted block is compared with PyTorch."""


def check_shortcuts(model: ResNet) -> None:
    """Check that every block has a shortcut.

    Raises:
        BuildError: the network is a plain one.
    """
    if any(block.shortcut is None for block in blocks_of(model)):
        raise BuildError("--lesions needs a network with shortcuts: without a block, nothing remains of a plain one")


class LesionGraph(ServingGraph):
    """A `ServingGraph` in float32 whose residual branches are scaled."""

    def __init__(self, model: ResNet, preprocess: Preprocess, temperature: float) -> None:
        super().__init__(model, preprocess, temperature)
        self._gates: list[Tensor] = []
        for place, block in enumerate(blocks_of(self.model)):
            convs = block.get_submodule("convs")
            assert isinstance(convs, nn.ModuleList)
            # The last layer of the branch before the addition.
            convs[-1] = _Scaled(convs[-1], self._gates, place)

    def forward(self, images: Tensor, gates: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The tensors of `OUTPUTS` for images, uint8 [N, H, W, C], with a factor per block, float32 [blocks]."""
        self._gates[:] = gates.unbind()
        try:
            return super().forward(images)
        finally:
            self._gates.clear()


class _Scaled(nn.Module):
    """A layer whose output is scaled by an element of `gates`, which has its values while the graph computes."""

    def __init__(self, layer: nn.Module, gates: list[Tensor], place: int) -> None:
        super().__init__()
        self.layer, self.gates, self.place = layer, gates, place

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.gates[self.place]  # type: ignore[no-any-return]


def write_lesion(model: ResNet, preprocess: Preprocess, temperature: float, folder: Path, samples: Samples) -> Lesion:
    """Write the file beside `model.onnx`, and check it. Returns its entry in the manifest.

    Raises:
        BuildError: the network is a plain one.
        ParityError: with all blocks, or without one of them, the file computes other logits than PyTorch.
    """
    check_shortcuts(model)
    blocks, path = blocks_of(model), folder / LESION_FILE
    graph = LesionGraph(model, preprocess, temperature)
    onnx_format.write(graph, preprocess, path, {LESION_INPUT: torch.ones(len(blocks))})
    check_portable(path, OUTPUTS, (INPUT, LESION_INPUT))
    whole = OnnxRunner(folder / "model.onnx").logits(samples.parity)
    runner = OnnxRunner(path, [1.0] * len(blocks))
    parity = check_parity(runner, samples.parity, whole, "float32")
    images = samples.parity[evenly_spaced(np.arange(len(samples.parity)), _IMAGES)]
    _check_deletions(model, preprocess, runner, images, float(np.std(whole, axis=0).mean()))
    return Lesion(
        artifact=Artifact(
            file=LESION_FILE, format="onnx", precision="float32", sha256=manifest.sha256(path), parity=parity
        ),
        blocks=tuple(
            LesionBlock(name=name, changes_shape=changes_shape(block))
            for name, block in zip(block_names(model), blocks, strict=True)
        ),
    )


def _check_deletions(
    model: ResNet, preprocess: Preprocess, runner: OnnxRunner, images: UInt8Array, spread: float
) -> None:
    """Compare the network without each of its blocks with PyTorch.

    Args:
        model: the network in PyTorch, with all blocks.
        preprocess: that of the network.
        runner: runs the file.
        images: uint8 [n, H, W, C].
        spread: mean over classes of the standard deviation of the logits with all blocks. A network without a block
            may give the same logits for all images, and no spread then.
    """
    for place, name in enumerate(block_names(model)):
        runner.gates = [float(other != place) for other in range(len(blocks_of(model)))]
        expected = predict(without_blocks(model, {place}), images, preprocess).numpy()
        error = float(np.abs(runner.logits(images) - expected).max()) / max(spread, float(np.abs(expected).max()))
        if not error <= MAX_LOGIT_ERROR["float32"]:
            raise ParityError(
                f"{LESION_FILE}: without {name} the logits differ from PyTorch's by {error:.1e} of their size, "
                f"more than the {MAX_LOGIT_ERROR['float32']:.0e} allowed"
            )
