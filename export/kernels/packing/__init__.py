"""A network as a launch plan: where tensors lie, what kernels get, and when buffers live.

layout.py      tensors in memory: padding and size
weights.py     weights in the order in which kernels read them
launches.py    launches whose pointers name tensors
convolutions.py, others.py    the launches of each kind of layer
arena.py       buffers for tensors, by lifetime
planner.py     the plan
"""
