"""The CUDA engine: a network as kernels in Triton's language, compiled ahead for one kind of GPU. No torch.

network.py    layers as data classes
reading/      ONNX files as layers
packing/      weights, buffers and launches of a plan
language/     the kernels
tiles.py      block sizes per layer and architecture
compile.py    kernels as cubins
build.py      all of it: an ONNX file as a CUDA engine
"""
