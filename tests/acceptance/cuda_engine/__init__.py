"""The CUDA engine: kernels, compilation, speed on a GPU, images, damaged engines."""
