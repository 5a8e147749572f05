"""Experiments that show why residual networks work. One file a study; a new study is a new file and a line here."""

from __future__ import annotations

from models.studies import degradation, finite_step, shattered_gradients, shortcuts, signal_growth
from models.studies.study import Study

__all__ = ["STUDIES"]

STUDIES: dict[str, Study] = {
    study.NAME: study for study in (degradation, shattered_gradients, finite_step, signal_growth, shortcuts)
}
