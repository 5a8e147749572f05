"""The baseline of the CUDA engine: cuDNN, called per convolution by PyTorch in float16. It needs PyTorch for CUDA.

`executor` computes a version with it, `network` runs the nodes of its ONNX file with the functions of `operators`, and
`ceilings` measures what the GPU can multiply. `benchmarks/gpu.sh --only engine` uses them.
"""
