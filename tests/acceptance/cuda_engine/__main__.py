"""The CUDA engine.

    python -m tests.acceptance.cuda_engine [LINE ...]

Line 1 runs the kernels in Triton's interpreter, and line 2 compiles them; both need the extras `cpu`, `train`, `dev`
and `kernels`. Line 3 measures the speed on an H100 or H200, and elsewhere runs the measuring script on a fake GPU.
Line 4 builds container images where podman is set up. Line 5 serves damaged and foreign engines.
"""

from tests.acceptance.cuda_engine import compilation, fallbacks, images, interpreted, speed
from tests.acceptance.report import run

if __name__ == "__main__":
    run(
        {
            1: interpreted.check,
            2: compilation.check,
            3: speed.check,
            4: images.check,
            5: fallbacks.check,
        }
    )
