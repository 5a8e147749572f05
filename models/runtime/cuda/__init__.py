"""CUDA through cuda-bindings alone, for the service and for measurements of `export`. No torch, no CUDA toolkit.

    device.py     a GPU: memory, streams, events, graphs, and kernels that are compiled here
    kernels.py    kernels that were compiled elsewhere: parameters, tensor maps, launches
    program.py    the launches of a CUDA engine's plan

These modules import `cuda.bindings`, which need not be installed without a GPU.
"""


class CudaError(Exception):
    """A function of the CUDA runtime failed."""
