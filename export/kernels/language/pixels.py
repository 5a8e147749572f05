"""The kernel before the first convolution: bytes to prepared pixels."""

import triton
import triton.language as tl

from export.kernels.language.storing import converted


@triton.jit(do_not_specialize=["T", "H", "W", "C", "PH", "PW", "pad"])
def prepare_pixels(images, mean, scale, y, T, H, W, C, PH, PW, pad, CP: tl.constexpr, BP: tl.constexpr):
    """uint8 [n, H, W, C] to (x - mean) * scale, [n, PH, PW, CP], with `pad` rows and columns of zeros before it."""
    t = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.arange(0, CP)
    n = t // (PH * PW)
    rem = t - n * (PH * PW)
    i = rem // PW
    j = rem - i * PW
    h = i - pad
    w = j - pad
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W) & (t < T)
    ok = inside[:, None] & (c < C)[None, :]
    x = tl.load(images + ((n * H + h) * W + w)[:, None] * C + c[None, :], mask=ok, other=0).to(tl.float32)
    v = (x - tl.load(mean + c)[None, :]) * tl.load(scale + c)[None, :]
    v = tl.where(ok, v, 0.0)
    tl.store(y + t[:, None] * CP + c[None, :], converted(v, y), mask=(t < T)[:, None])
