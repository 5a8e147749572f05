"""Convolutions as matrix products without a copy of the image: rows are pixels, columns output channels."""

import triton
import triton.language as tl

from export.kernels.language.storing import store_forms

_NUMBERS = ["M", "KC", "XC", "NB", "PQ", "Q", "xI", "xW", "off0", "rI", "rW", "yI", "yW", "zI", "zW"]


@triton.jit
def _result(acc, scale, bias, res, rs, offs_n, offs_r, mask):
    """The accumulators as float32, with scale, bias and residual."""
    v = acc.to(tl.float32)
    if scale is not None:
        v = v * tl.load(scale + offs_n)[None, :]
    v = v + tl.load(bias + offs_n)[None, :]
    if res is not None:
        r = tl.load(res + offs_r, mask=mask, other=0.0)
        if res.dtype.element_ty == tl.int8:  # int32 first: the change of layout then happens to bytes
            r = r.to(tl.int32)
        v = v + r.to(tl.float32) * rs
    return v


@triton.jit(do_not_specialize=[*_NUMBERS, "stride"])
def convolution_pointer(
    x,
    w,
    scale,
    bias,
    res,
    y,
    z,
    zscale,
    zshift,
    rs,
    M,
    KC,
    XC,
    NB,
    PQ,
    Q,
    stride,
    xI,
    xW,
    off0,
    rI,
    rW,
    yI,
    yW,
    zI,
    zW,
    R: tl.constexpr,
    S: tl.constexpr,
    PIX: tl.constexpr,
    STRIDE: tl.constexpr,
    GROUPED: tl.constexpr,
    GATHER: tl.constexpr,
    MAP_R: tl.constexpr,
    MAP_Y: tl.constexpr,
    MAP_Z: tl.constexpr,
    RELU_Y: tl.constexpr,
    RELU_Z: tl.constexpr,
    FROM_Y: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Any stride and window, with plain pointers.

    Prepared pixels have PIX elements each, and a tap is then a whole row of the window: `xI` and `xW` count in STRIDE
    pixels, so that the compiler knows the alignment.
    """
    pid = tl.program_id(0)
    pid_m = pid // NB
    pid_n = pid - pid_m * NB
    CK = KC * BK
    N = NB * BN
    K = CK * (R * S)
    if PIX == 0:
        C = XC * BK
        step = stride
        plane = xI
        pitch = xW
    else:
        C = PIX
        step = STRIDE
        plane = xI * STRIDE
        pitch = xW * STRIDE
    offs_m = pid_m * BM + tl.arange(0, BM)
    offs_n = pid_n * BN + tl.arange(0, BN)
    offs_k = tl.arange(0, BK)
    rows = tl.minimum(offs_m, M - 1)
    if GATHER or MAP_R or MAP_Y or MAP_Z:
        n = rows // PQ
        rem = rows - n * PQ
        p = rem // Q
        q = rem - p * Q
    if PIX != 0:
        base = (n * plane + p * step * pitch + q * step) * C
    elif GATHER:
        base = (n * plane + p * step * pitch + q * step + off0) * C
    else:
        base = rows * C
    if GROUPED:
        base += (pid_n * BN) // CK * CK
    a_ptrs = x + base[:, None] + offs_k[None, :]
    w_ptrs = w + offs_n[None, :] * K + offs_k[:, None]
    acc = tl.zeros((BM, BN), dtype=tl.int32) if w.dtype.element_ty == tl.int8 else tl.zeros((BM, BN), dtype=tl.float32)
    for it in range(R * S * KC):
        if R * S == 1:
            a = tl.load(a_ptrs + it * BK)
        else:
            tap = it // KC
            kc = it - tap * KC
            rr = tap // S
            ss = tap - rr * S
            a = tl.load(a_ptrs + ((rr * pitch + ss) * C + kc * BK))
        b = tl.load(w_ptrs + it * BK)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32) if w.dtype.element_ty == tl.int8 else tl.dot(a, b, acc)
    orow = rows
    rrow = n * rI + p * rW + q if MAP_R else orow
    yrow = n * yI + p * yW + q if MAP_Y else orow
    zrow = n * zI + p * zW + q if MAP_Z else orow
    mask = (offs_m < M)[:, None]
    v = _result(acc, scale, bias, res, rs, offs_n, rrow[:, None] * N + offs_n[None, :], mask)
    offs_y = yrow[:, None] * N + offs_n[None, :]
    offs_z = zrow[:, None] * N + offs_n[None, :]
    store_forms(v, y, z, zscale, zshift, offs_n, offs_y, offs_z, mask, RELU_Y, RELU_Z, FROM_Y)


@triton.jit(do_not_specialize=[*_NUMBERS, "H"])
def convolution_tma(
    xd,
    wd,
    scale,
    bias,
    res,
    y,
    z,
    zscale,
    zshift,
    rs,
    M,
    KC,
    NB,
    PQ,
    Q,
    H,
    xI,
    xW,
    off0,
    rI,
    rW,
    yI,
    yW,
    zI,
    zW,
    R: tl.constexpr,
    S: tl.constexpr,
    INT8: tl.constexpr,
    GROUPED: tl.constexpr,
    PADDED: tl.constexpr,
    MAP_R: tl.constexpr,
    MAP_Y: tl.constexpr,
    MAP_Z: tl.constexpr,
    RELU_Y: tl.constexpr,
    RELU_Z: tl.constexpr,
    FROM_Y: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Stride 1, with tensor maps. Rows are those of the input: with PADDED the zeros too, whose results are dropped."""
    pid = tl.program_id(0)
    pid_m = pid // NB
    pid_n = pid - pid_m * NB
    N = NB * BN
    m0 = pid_m * BM
    n0 = pid_n * BN
    offs_m = m0 + tl.arange(0, BM)
    offs_n = n0 + tl.arange(0, BN)
    live = offs_m < M
    if PADDED:
        n = offs_m // xI
        rem = offs_m - n * xI
        p = rem // xW
        q = rem - p * xW
        live = live & (p < H) & (q < Q)
        orow = n * PQ + p * Q + q
    else:
        if MAP_R or MAP_Y or MAP_Z:
            n = offs_m // PQ
            rem = offs_m - n * PQ
            p = rem // Q
            q = rem - p * Q
        orow = offs_m
    c0 = 0
    if GROUPED:
        c0 = n0 // (KC * BK) * (KC * BK)
    acc = tl.zeros((BM, BN), dtype=tl.int32) if INT8 else tl.zeros((BM, BN), dtype=tl.float32)
    for it in range(R * S * KC):
        if R * S == 1:
            a = xd.load([m0, c0 + it * BK])
        else:
            tap = it // KC
            kc = it - tap * KC
            rr = tap // S
            ss = tap - rr * S
            a = xd.load([m0 + off0 + rr * xW + ss, c0 + kc * BK])
        b = wd.load([n0, it * BK])
        acc = tl.dot(a, b.T, acc, out_dtype=tl.int32) if INT8 else tl.dot(a, b.T, acc)
    rrow = n * rI + p * rW + q if MAP_R else orow
    yrow = n * yI + p * yW + q if MAP_Y else orow
    zrow = n * zI + p * zW + q if MAP_Z else orow
    mask = live[:, None]
    v = _result(acc, scale, bias, res, rs, offs_n, rrow[:, None] * N + offs_n[None, :], mask)
    offs_y = yrow[:, None] * N + offs_n[None, :]
    offs_z = zrow[:, None] * N + offs_n[None, :]
    store_forms(v, y, z, zscale, zshift, offs_n, offs_y, offs_z, mask, RELU_Y, RELU_Z, FROM_Y)
