"""Hulls in standard form."""

import numpy as np
import torch

from sst_cvx.paths.interior_point.standard_form import StandardForm
from tests.hulls import birkhoff
from tests.paths.interior_point.table import half_fixed


def test_presolve():
    form = StandardForm.of_hull(half_fixed().hull.at(), (0.0, np.inf))
    assert form.event_columns == 3
    sides = form.sides(torch.device("cpu"))
    assert sides.at(sides.unknown()).event.tolist() == [[0, 0, 0, 0, 1, 0]]
    assert form.equalities == 1
    assert form.slacks == 0
    assert StandardForm.of_hull(birkhoff(4).hull.at(), (0.0, np.inf)).equalities == 7
