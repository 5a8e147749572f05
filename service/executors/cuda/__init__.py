"""What executors on NVIDIA GPUs share: the CUDA runtime, and lanes over it."""


class CudaError(Exception):
    """A function of the CUDA runtime failed."""
