"""Convolutions as matrix products without a copy of the image: rows are pixels, columns output channels."""

import triton
import triton.language as tl

from export.kernels.language.storing import store_forms

_NUMBERS = ["M", "KC", "XC", "NB", "PQ", "Q", "xI", "xW", "off0", "rI", "rW", "yI", "yW", "zI", "zW"]


@triton.jit
def _row(dense, n, p, q, plane, pitch, MAPPED: tl.constexpr):
    """The place of pixel (p, q) of image n in a tensor: `dense` in one without zeros between rows and images."""
    row = dense
    if MAPPED:
        row = n * plane + p * pitch + q
    return row


@triton.jit
def _finish(
    acc, scale, bias, res, rs, y, z, zscale, zshift, offs_n, mask, dense, n, p, q, N, rI, rW, yI, yW, zI, zW,
    MAP_R: tl.constexpr, MAP_Y: tl.constexpr, MAP_Z: tl.constexpr, RELU_Y: tl.constexpr, RELU_Z: tl.constexpr,
    FROM_Y: tl.constexpr,
):  # fmt: skip
    """Scale, bias and residual of the accumulators, [rows, channels], and the forms in which they are stored."""
    v = acc.to(tl.float32)
    if scale is not None:
        v = v * tl.load(scale + offs_n)[None, :]
    v = v + tl.load(bias + offs_n)[None, :]
    if res is not None:
        r = tl.load(res + _row(dense, n, p, q, rI, rW, MAP_R)[:, None] * N + offs_n[None, :], mask=mask, other=0.0)
        if res.dtype.element_ty == tl.int8:  # int32 first: the change of layout then happens to bytes
            r = r.to(tl.int32)
        v = v + r.to(tl.float32) * rs
    offs_y = _row(dense, n, p, q, yI, yW, MAP_Y)[:, None] * N + offs_n[None, :]
    offs_z = _row(dense, n, p, q, zI, zW, MAP_Z)[:, None] * N + offs_n[None, :]
    store_forms(v, y, z, zscale, zshift, offs_n, offs_y, offs_z, mask, RELU_Y, RELU_Z, FROM_Y)


@triton.jit(do_not_specialize=[*_NUMBERS, "stride"])
def convolution_pointer(
    x, w, scale, bias, res, y, z, zscale, zshift, rs, M, KC, XC, NB, PQ, Q, stride, xI, xW, off0,
    rI, rW, yI, yW, zI, zW,
    R: tl.constexpr, S: tl.constexpr, PIX: tl.constexpr, STRIDE: tl.constexpr, GROUPED: tl.constexpr,
    GATHER: tl.constexpr, MAP_R: tl.constexpr, MAP_Y: tl.constexpr, MAP_Z: tl.constexpr, RELU_Y: tl.constexpr,
    RELU_Z: tl.constexpr, FROM_Y: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Any stride and window, with plain pointers.

    Prepared pixels have PIX elements each, and a tap is then a whole row of the window: `xI` and `xW` count in STRIDE
    pixels, so that the compiler knows the alignment.
    """
    pid = tl.program_id(0)
    pid_m = pid // NB
    pid_n = pid - pid_m * NB
    CK = KC * BK
    if PIX == 0:
        C = XC * BK
        step = stride
        pitch = xW
        plane = xI
    else:
        C = PIX
        step = STRIDE
        pitch = xW * STRIDE
        plane = xI * STRIDE
    offs_m = pid_m * BM + tl.arange(0, BM)
    offs_n = pid_n * BN + tl.arange(0, BN)
    offs_k = tl.arange(0, BK)
    rows = tl.minimum(offs_m, M - 1)
    n = rows // PQ
    p = (rows - n * PQ) // Q
    q = rows - n * PQ - p * Q
    if GATHER:
        base = (n * plane + p * step * pitch + q * step + off0) * C
    else:
        base = rows * C
    if GROUPED:
        base += (pid_n * BN) // CK * CK
    a_ptrs = x + base[:, None] + offs_k[None, :]
    w_ptrs = w + offs_n[None, :] * (CK * R * S) + offs_k[:, None]
    INT8: tl.constexpr = w.dtype.element_ty == tl.int8
    acc = tl.zeros((BM, BN), dtype=tl.int32 if INT8 else tl.float32)
    for it in range(R * S * KC):
        tap = it // KC
        kc = it - tap * KC
        if R * S == 1:
            a = tl.load(a_ptrs + it * BK)
        else:
            a = tl.load(a_ptrs + ((tap // S * pitch + tap % S) * C + kc * BK))
        b = tl.load(w_ptrs + it * BK)
        if INT8:
            acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(a, b, acc)
    mask = (offs_m < M)[:, None]
    _finish(acc, scale, bias, res, rs, y, z, zscale, zshift, offs_n, mask, rows, n, p, q, NB * BN,
            rI, rW, yI, yW, zI, zW, MAP_R, MAP_Y, MAP_Z, RELU_Y, RELU_Z, FROM_Y)  # fmt: skip


@triton.jit(do_not_specialize=[*_NUMBERS, "H"])
def convolution_tma(
    xd, wd, scale, bias, res, y, z, zscale, zshift, rs, M, KC, NB, PQ, Q, H, xI, xW, off0, rI, rW, yI, yW, zI, zW,
    R: tl.constexpr, S: tl.constexpr, INT8: tl.constexpr, GROUPED: tl.constexpr, PADDED: tl.constexpr,
    MAP_R: tl.constexpr, MAP_Y: tl.constexpr, MAP_Z: tl.constexpr, RELU_Y: tl.constexpr, RELU_Z: tl.constexpr,
    FROM_Y: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Stride 1, with tensor maps. Rows are those of the input: with PADDED the zeros too, whose results are dropped."""
    pid = tl.program_id(0)
    pid_m = pid // NB
    pid_n = pid - pid_m * NB
    m0 = pid_m * BM
    n0 = pid_n * BN
    offs_m = m0 + tl.arange(0, BM)
    offs_n = n0 + tl.arange(0, BN)
    live = offs_m < M
    if PADDED:
        n = offs_m // xI
        p = (offs_m - n * xI) // xW
        q = offs_m - n * xI - p * xW
        live = live & (p < H) & (q < Q)
        dense = n * PQ + p * Q + q
    else:
        n = offs_m // PQ
        p = (offs_m - n * PQ) // Q
        q = offs_m - n * PQ - p * Q
        dense = offs_m
    c0 = 0
    if GROUPED:
        c0 = n0 // (KC * BK) * (KC * BK)
    acc = tl.zeros((BM, BN), dtype=tl.int32 if INT8 else tl.float32)
    for it in range(R * S * KC):
        tap = it // KC
        kc = it - tap * KC
        if R * S == 1:
            a = xd.load([m0, c0 + it * BK])
        else:
            a = xd.load([m0 + off0 + tap // S * xW + tap % S, c0 + kc * BK])
        b = wd.load([n0, it * BK])
        if INT8:
            acc = tl.dot(a, b.T, acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(a, b.T, acc)
    _finish(acc, scale, bias, res, rs, y, z, zscale, zshift, offs_n, live[:, None], dense, n, p, q, NB * BN,
            rI, rW, yI, yW, zI, zW, MAP_R, MAP_Y, MAP_Z, RELU_Y, RELU_Z, FROM_Y)  # fmt: skip
