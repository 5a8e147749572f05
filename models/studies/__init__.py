"""Experiments that show why residual networks work.

One module per study; a new study is a new module and a line in `_MODULES`.
"""

from __future__ import annotations

from models.studies import (
    degradation,
    finite_step,
    lesion,
    loss_surface,
    normalisation,
    order_of_operations,
    shattered_gradients,
    shortcuts,
    signal_growth,
    why_11_1_failed,
)
from models.studies.study import Study

__all__ = ["STUDIES"]

_MODULES: tuple[Study, ...] = (
    degradation,
    shattered_gradients,
    why_11_1_failed,
    finite_step,
    order_of_operations,
    signal_growth,
    normalisation,
    shortcuts,
    loss_surface,
    lesion,
)

STUDIES = {study.NAME: study for study in _MODULES}
