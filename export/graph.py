"""The graph of every artifact: from uint8 pixels to logits, probabilities, embedding, feature map and, on request, the
pooled features of each stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.fold import fold
from models.architectures import ResNet
from models.artifact.manifest import OUTPUTS
from models.imaging.preprocess import Preprocess


class ServingGraph(nn.Module):
    """A folded network with normalisation before it and softmax after it.

    Args:
        model: the trained network.
        preprocess: mean and standard deviation of the normalisation.
        temperature: probabilities are softmax(logits / temperature).
        dtype: dtype of the convolutions. Normalisation, pooling and the head stay in float32: they take little time,
            and half precision would round pixel values and sums over thousands of features.
        outputs: `OUTPUTS`, or these and the `LAYER_OUTPUTS` of the stages of the network.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        model: ResNet,
        preprocess: Preprocess,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        outputs: tuple[str, ...] = OUTPUTS,
    ) -> None:
        super().__init__()
        self.model = fold(model).to(dtype)
        self.model.classifier.float()
        self.temperature = temperature
        self.dtype = dtype
        self.outputs = outputs
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)
        std = torch.tensor(preprocess.std, dtype=torch.float64)
        self.register_buffer("mean", (mean * 255).float()[:, None, None])
        self.register_buffer("scale", (1 / (std * 255)).float()[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The tensors of `outputs` for images, uint8 [N, H, W, C]."""
        # Cast first, because TensorRT cannot transpose uint8. Arithmetic last, because ONNX Runtime takes ten times as
        # long for it if channels are the last dimension.
        x = (images.float().permute(0, 3, 1, 2) - self.mean) * self.scale
        stages: list[Tensor] = []
        feature_map = self.model.features(x.to(self.dtype), stages).float()
        embedding = feature_map.mean((2, 3))
        logits = self.model.classifier(embedding)
        scaled = logits if self.temperature == 1.0 else logits / self.temperature
        layers = [stage.float().mean((2, 3)) for stage in stages] if len(self.outputs) > len(OUTPUTS) else []
        return logits, scaled.softmax(1), embedding, feature_map, *layers
