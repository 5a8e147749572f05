"""Runs the launch plan of a CUDA engine in Triton's interpreter, in a process of its own.

Triton decides when a kernel is defined whether it is interpreted. So a test starts another Python with
`python -m tests.support.interpreter` (`process.py`), and compares the arrays that it writes.
"""
