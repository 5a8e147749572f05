"""Tensors in memory."""

from __future__ import annotations

from dataclasses import dataclass

from export.kernels.network import Convolution, Network, Shape

CHANNEL_MULTIPLE = 32
"""Channels are padded to a multiple, the smallest block of a kernel."""


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def _element_bytes(element: str) -> int:
    """Bytes of an element: i8, fp16 or bf16."""
    return 1 if element == "i8" else 2


@dataclass(frozen=True)
class Layout:
    """Activations of a batch, [n, height + padding, width + padding, channels], with zeros before the first image."""

    shape: Shape
    padding: int
    """Columns of zeros right of each row, and rows of zeros below each image."""
    element: str
    """i8, fp16 or bf16."""

    @property
    def element_bytes(self) -> int:
        return _element_bytes(self.element)

    @property
    def channels(self) -> int:
        """Channels with their padding."""
        return round_up(self.shape.channels, CHANNEL_MULTIPLE)

    @property
    def pitch(self) -> int:
        """Pixels from a row to the next."""
        return self.shape.width + self.padding

    @property
    def plane(self) -> int:
        """Pixels from an image to the next."""
        return (self.shape.height + self.padding) * self.pitch

    @property
    def margin(self) -> int:
        """Pixels of zeros before the first image, and after the last one, that taps may read."""
        return self.padding * (self.pitch + 1)

    @property
    def pixel_bytes(self) -> int:
        return self.channels * self.element_bytes

    def start(self) -> int:
        """Bytes before the first image."""
        return self.margin * self.pixel_bytes

    def bytes(self, batch: int) -> int:
        """Size of the tensor with its guards."""
        return (batch * self.plane + 2 * self.margin) * self.pixel_bytes


@dataclass(frozen=True)
class PixelLayout:
    """Prepared pixels, [n, height, width, channels], with zeros around the image for the first convolution."""

    shape: Shape
    """Shape of the images."""
    padding: int
    rows: int
    pitch: int
    """Columns; a multiple of the stride."""
    element: str

    @property
    def element_bytes(self) -> int:
        return _element_bytes(self.element)

    @property
    def channels(self) -> int:
        """Channels with their padding: a power of two, and at least four bytes."""
        return max(4, 1 << (self.shape.channels - 1).bit_length())

    def bytes(self, batch: int) -> int:
        return batch * self.rows * self.pitch * self.channels * self.element_bytes


def run_length(kernel: int, channels: int) -> int:
    """Elements of a row of the window of a convolution of pixels, padded to the smallest block."""
    return round_up(kernel * channels, CHANNEL_MULTIPLE)


def pixel_layout(network: Network, element: str) -> PixelLayout:
    """The layout that all convolutions of the pixels can read."""
    readers = [conv for conv in network.convolutions if conv.source == network.pixels.form.name]
    padding = max(conv.padding for conv in readers)
    stride = max(conv.stride for conv in readers)
    layout = PixelLayout(network.image, padding, 0, 0, element)
    rows = columns = 0
    for conv in readers:
        shift = padding - conv.padding
        last = Shape(*_last_window(conv))
        run = -(-run_length(conv.kernel, layout.channels) // layout.channels)
        rows = max(rows, shift + last.height + conv.kernel)
        columns = max(columns, shift + last.width + run)
    return PixelLayout(network.image, padding, rows, round_up(columns, stride), element)


def _last_window(conv: Convolution) -> tuple[int, int, int]:
    shape = conv.forms[0].shape
    return (shape.height - 1) * conv.stride, (shape.width - 1) * conv.stride, 1


def layouts(network: Network, half: str) -> dict[str, Layout]:
    """The layout of each form but the pixels.

    Args:
        network: the layers.
        half: fp16 or bf16, for forms that are not rounded.
    """
    padding: dict[str, int] = {}
    for conv in network.convolutions:
        if conv.kernel > 1:
            needed = max(conv.padding, conv.kernel - 1 - conv.padding)
            padding[conv.source] = max(needed, padding.get(conv.source, 0))
    return {
        form.name: Layout(form.shape, padding.get(form.name, 0), half if form.scale is None else "i8")
        for form in network.forms
        if form.name != network.pixels.form.name
    }
