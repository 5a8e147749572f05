"""Shared by the executors on NVIDIA GPUs: streams over the CUDA runtime, and the JPEG decoder."""
