"""Compiled or not, the same verdict."""

import pytest
import torch

from polytopes.kernels.box import box_violation, within_box
from sst_cvx import native

pytest.importorskip("numba")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_verdicts(dtype):
    for n, least, most in ((1, 0, 1), (5, 2, 2), (6, 0, 3), (4, 0, 4)):
        x = torch.rand(200, n, dtype=dtype)
        x *= most * torch.rand(200, 1, dtype=dtype).clamp(max=1.2) / n
        x[::7, 0] = -1e-3
        x[3::7, 0] = torch.nan
        verdicts = []
        for row in x[:, None]:
            for on in (True, False):
                with native.switched(on):
                    verdicts.append(within_box(row, least, most, 1e-6))
        assert verdicts[::2] == verdicts[1::2]
        assert verdicts[::2] == (box_violation(x.double(), least, most) <= 1e-6).tolist()
        for on in (True, False):
            with native.switched(on):
                assert not within_box(x, least, most, 1e-6)
                assert not within_box(x[:0], least, most, 1e-6)
