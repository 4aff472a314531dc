"""Exponential families of structures that list their elements: a softmax over the list."""

from __future__ import annotations

import torch

from sst_cvx.paths.fast.registry import fast_path
from sst_cvx.regularizers import ExponentialFamilyEntropy
from sst_cvx.structure.intersection import Intersection
from sst_cvx.structure.listed import Listed
from sst_cvx.structure.restricted import Restricted


@fast_path(Listed, ExponentialFamilyEntropy)
@fast_path(Restricted, ExponentialFamilyEntropy)
@fast_path(Intersection, ExponentialFamilyEntropy)
def softmax_over_list(
    structure: Listed | Restricted | Intersection, regularizer: ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return structure.marginals(u)
