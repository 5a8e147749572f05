"""The head: logits and probabilities from pooled features, in one kernel."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["M", "N", "F", "KC", "NB"])
def classify(
    features, w, bias, logits, probabilities, done, temperature, M, N, F, KC, NB,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """features [M, F] times w [N, F] plus bias, and softmax(logits / temperature), all float32.

    The last block of a row of blocks computes the softmax of its images, BW classes at a time. `done` counts blocks per
    row; it is zero before and after the kernel.
    """
    pid = tl.program_id(0)
    pid_m = pid // NB
    pid_n = pid - pid_m * NB
    offs_m = pid_m * BM + tl.arange(0, BM)
    offs_n = pid_n * BN + tl.arange(0, BN)
    offs_k = tl.arange(0, BK)
    live = (offs_m < M)[:, None]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for it in range(KC):
        k = it * BK + offs_k
        a = tl.load(features + offs_m[:, None] * F + k[None, :], mask=live & (k < F)[None, :], other=0.0)
        b = tl.load(w + offs_n[None, :] * (KC * BK) + k[:, None])
        acc = tl.dot(a, b, acc, input_precision="ieee")
    acc += tl.load(bias + offs_n)[None, :]
    tl.store(logits + offs_m[:, None] * N + offs_n[None, :], acc, mask=live & (offs_n < N)[None, :])
    tl.debug_barrier()  # all stores of this block come before its count
    before = tl.atomic_add(done + pid_m, 1, sem="acq_rel", scope="gpu")
    if before == NB - 1:
        top = tl.full((BM,), float("-inf"), dtype=tl.float32)
        for first in range(0, N, BW):
            c = first + tl.arange(0, BW)
            ok = live & (c < N)[None, :]
            # From L2, where the stores of the other blocks are.
            v = tl.load(logits + offs_m[:, None] * N + c[None, :], mask=ok, other=float("-inf"), cache_modifier=".cg")
            top = tl.maximum(top, tl.max(v, axis=1))
        top = tl.where(offs_m < M, top, 0.0)
        total = tl.zeros((BM,), dtype=tl.float32)
        for first in range(0, N, BW):
            c = first + tl.arange(0, BW)
            ok = live & (c < N)[None, :]
            v = tl.load(logits + offs_m[:, None] * N + c[None, :], mask=ok, other=float("-inf"), cache_modifier=".cg")
            total += tl.sum(tl.exp((v - top[:, None]) / temperature), axis=1)
        for first in range(0, N, BW):
            c = first + tl.arange(0, BW)
            ok = live & (c < N)[None, :]
            v = tl.load(logits + offs_m[:, None] * N + c[None, :], mask=ok, other=float("-inf"), cache_modifier=".cg")
            share = tl.exp((v - top[:, None]) / temperature) / total[:, None]
            tl.store(probabilities + offs_m[:, None] * N + c[None, :], share, mask=ok)
        tl.store(done + pid_m, 0)
