"""Engines of served versions in the engine cache: whether this machine can run one, and the executor without one.

    status.py      the state of a version's engine, of whichever kind its executor needs
    tensorrt.py    TensorRT's engines
    cuda.py        CUDA engines, and the executor that is the default
    trial.py       the first load of a CUDA engine, in a process of its own
    fallback.py    ONNX Runtime in the place of an engine

The service builds no engines: a build takes minutes of a machine that serves. If no engine fits, ONNX Runtime serves
the version, and the status states the command that builds an engine. The engine is used when the version is loaded
again.
"""
