"""The CUDA engine.

    python -m tests.acceptance.cuda_engine [LINE ...]

Line 1 runs the kernels in Triton's interpreter, and line 2 compiles them; both need the extras `cpu`, `train`, `dev`
and `kernels`. Lines 3 to 5 are of the executor and its images.
"""

from tests.acceptance.cuda_engine import compilation, interpreted, not_run
from tests.acceptance.report import run

if __name__ == "__main__":
    run(
        {
            1: interpreted.check,
            2: compilation.check,
            3: not_run.on_a_gpu,
            4: not_run.in_images,
            5: not_run.damaged,
        }
    )
