"""The file of a CUDA engine: compiled kernels, packed weights and a launch plan. No torch, no Triton language, no CUDA.

`export` writes these files into the engine cache, and the executor `cuda` launches them with the driver's API alone.

    plan.py    the plan as data classes: buffers, kernels, tensor maps, and the launches of each batch size
    check.py   the rules of a plan: every reference, size, alignment and lifetime
    file.py    a plan, its kernels and its weights as one file
    cubin.py   parameters, registers and stack of a compiled kernel, from its ELF file
"""
