#!/usr/bin/env bash
# Measures this project on a machine with an NVIDIA GPU, and writes one report: the tests that need a GPU, every executor
# against the golden images, engines over batch sizes and precisions, decoding, the service over HTTP with several
# numbers of workers, and training.
# It installs nothing, uses the installed packages, and lists the steps that it could not do.
#
#     [PYTHON=python3] [PYTHONPATH=folder-of-packages] benchmarks/gpu.sh [--only STEP...] [--simulated MS] [OUT [VERSION...]]
#
# OUT is a folder (build/gpu), VERSION a folder in a model repository (the shipped model, and a ResNet-50 of random
# weights where torch can export one), STEP one of tests, resnet50, tensorrt, engine, executors, decoder, service,
# workers, training (all of them).
# The step engine takes under four minutes, after the engines that are missing were built: ceilings, CUDA engines, cuDNN
# and ONNX Runtime, with a table of the layers. cuDNN is called by PyTorch, in a build for CUDA. So is the step training.
# With --simulated a machine without a GPU does the step workers, with an executor of MS milliseconds per batch.
# Needs this project installed (`pip install -e .`), and of executors those whose packages are there; the tests need
# pytest, hypothesis, httpx and the extra `train`, which the ResNet-50 needs, too.
set -euo pipefail
cd "$(dirname "$0")/.."
here=.venv/bin/python
[ -x "$here" ] || here=python3
exec "${PYTHON:-$here}" -m benchmarks.gpu "$@"
