"""Pooling over windows and over whole images, and the feature map as an output.

Channels are given as `CB` blocks of `BC`: the compiler then knows that rows begin at a multiple of BC, and loads
several channels at once.
"""

import triton
import triton.language as tl

from export.kernels.language.storing import store_forms


@triton.jit(do_not_specialize=["M", "PQ", "Q", "H", "W", "CB", "xI", "xW", "yI", "yW", "zI", "zW"])
def pool_windows(
    x, y, z, zscale, zshift, factor, M, PQ, Q, H, W, CB, xI, xW, yI, yW, zI, zW,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, IS_MAX: tl.constexpr, COUNTS_PAD: tl.constexpr,
    RELU_Y: tl.constexpr, RELU_Z: tl.constexpr, FROM_Y: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """factor times the maximum or the mean of SIZE x SIZE pixels; pixels outside the image do not exist."""
    C = CB * BC
    offs_m = tl.program_id(0) * BM + tl.arange(0, BM)
    offs_c = tl.program_id(1) * BC + tl.arange(0, BC)
    live = offs_m < M
    n = offs_m // PQ
    rem = offs_m - n * PQ
    p = rem // Q
    q = rem - p * Q
    if IS_MAX:
        if x.dtype.element_ty == tl.int8:
            best = tl.full((BM, BC), -128, dtype=tl.int8)
        else:
            best = tl.full((BM, BC), float("-inf"), dtype=x.dtype.element_ty)
    else:
        total = tl.zeros((BM, BC), dtype=tl.float32)
        count = tl.zeros((BM,), dtype=tl.float32)
    for r in tl.static_range(SIZE):
        for s in tl.static_range(SIZE):
            h = STRIDE * p - PAD + r
            w = STRIDE * q - PAD + s
            ok = live & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            where = x + (n * xI + h * xW + w)[:, None] * C + offs_c[None, :]
            if IS_MAX:
                if x.dtype.element_ty == tl.int8:
                    v = tl.load(where, mask=ok[:, None], other=-128)
                else:
                    v = tl.load(where, mask=ok[:, None], other=float("-inf"))
                best = tl.maximum(best, v)
            else:
                total += tl.load(where, mask=ok[:, None], other=0).to(tl.float32)
                count += ok.to(tl.float32)
    if IS_MAX:
        v = best.to(tl.float32) * factor
    elif COUNTS_PAD:
        v = total * factor / (SIZE * SIZE)
    else:
        v = tl.div_rn(total * factor, tl.maximum(count, 1.0)[:, None] + tl.zeros((BM, BC), dtype=tl.float32))
    offs_y = (n * yI + p * yW + q)[:, None] * C + offs_c[None, :]
    offs_z = (n * zI + p * zW + q)[:, None] * C + offs_c[None, :]
    store_forms(v, y, z, zscale, zshift, offs_c, offs_y, offs_z, live[:, None], RELU_Y, RELU_Z, FROM_Y)


@triton.jit(do_not_specialize=["HW", "W", "CB", "F", "xI", "xW"])
def pool_images(x, y, factor, HW, W, CB, F, xI, xW, BR: tl.constexpr, BC: tl.constexpr):
    """factor times the sum over all pixels of an image, float32 [n, F]."""
    C = CB * BC
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), dtype=tl.float32)
    for first in range(0, HW, BR):
        r = first + tl.arange(0, BR)
        h = r // W
        w = r - h * W
        v = tl.load(x + (n * xI + h * xW + w)[:, None] * C + c[None, :], mask=(r < HW)[:, None], other=0)
        total += tl.sum(v.to(tl.float32), axis=0)
    tl.store(y + n * F + c, total * factor, mask=c < F)


@triton.jit(do_not_specialize=["HW", "W", "CB", "F", "xI", "xW"])
def write_feature_map(x, y, factor, HW, W, CB, F, xI, xW, BR: tl.constexpr, BC: tl.constexpr):
    """factor times x as float32 [n, F, HW]."""
    C = CB * BC
    n = tl.program_id(0)
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    h = r // W
    w = r - h * W
    v = tl.load(x + (n * xI + h * xW + w)[:, None] * C + c[None, :], mask=(r < HW)[:, None], other=0)
    ok = (r < HW)[:, None] & (c < F)[None, :]
    tl.store(y + (n * F + c)[None, :] * HW + r[:, None], v.to(tl.float32) * factor, mask=ok)
