"""Chooses configurations of convolutions by measuring them on the GPU of this machine. Needs cuda-bindings, no torch.

candidates.py  the configurations to measure for a convolution
tensors.py     its input, and whether two outputs agree
timing.py      the time of each configuration on a GPU
stored.py      the file with the fastest ones, in the engine cache
measuring.py   all convolutions of a network
"""
