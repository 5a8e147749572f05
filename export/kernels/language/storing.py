"""The end of all kernels: values are converted and stored, once or twice."""

import triton
import triton.language as tl


@triton.jit
def converted(v, pointer):
    """float32 as the type behind a pointer; int8 is rounded half to even and saturates."""
    if pointer.dtype.element_ty == tl.int8:
        v = tl.minimum(tl.maximum(v, -128.0), 127.0)
        # The low byte of the sum is the integer.
        o = (v + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    else:
        o = v.to(pointer.dtype.element_ty)
    return o


@triton.jit
def store_forms(
    v,
    y,
    z,
    zscale,
    zshift,
    offs_n,
    offs_y,
    offs_z,
    mask,
    RELU_Y: tl.constexpr,
    RELU_Z: tl.constexpr,
    FROM_Y: tl.constexpr,
):
    """Store v as y, and zscale * v + zshift as z; either may be None.

    Args:
        v: float32 [rows, channels], in steps of y if y is int8.
        FROM_Y: z is made of the rounded y.
    """
    if y is not None:
        u = v
        if RELU_Y:
            u = tl.maximum(u, 0.0)
        o = converted(u, y)
        tl.store(y + offs_y, o, mask=mask)
    if z is not None:
        t = v
        if FROM_Y:
            t = o.to(tl.float32)
        t = t * tl.load(zscale + offs_n)[None, :] + tl.load(zshift + offs_n)[None, :]
        if RELU_Z:
            t = tl.maximum(t, 0.0)
        tl.store(z + offs_z, converted(t, z), mask=mask)
