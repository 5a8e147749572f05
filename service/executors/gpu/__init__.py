"""Shared by the executors on NVIDIA GPUs: the CUDA runtime, streams over it, and the JPEG decoder."""


class CudaError(Exception):
    """A function of the CUDA runtime failed."""
