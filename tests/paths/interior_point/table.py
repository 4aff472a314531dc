"""Hulls, regularizers and utilities that these tests share."""

from __future__ import annotations

import cvxpy as cp
import torch

import sst_cvx as sst
from tests.hulls import (
    birkhoff,
    grid_paths,
    k_subset,
    pairs,
    random_polytope,
    trees_by_martin,
    trees_by_subtours,
)

REGULARIZERS = (sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5))


def absolute_ball() -> sst.Structure:
    """Auxiliary variables without bounds of their own, negative coordinates, and no fixed sum."""
    x = cp.Variable(4)
    return sst.Structure(x, [cp.norm1(x) <= 1.5, cp.norm_inf(x) <= 1])


def half_fixed() -> sst.Structure:
    """Implicit equalities: two coordinates can only be 0, one only 1, in a matrix."""
    x = cp.Variable((2, 3))
    return sst.Structure(x, [x >= 0, x[0, :2] <= 0, cp.sum(x) <= 2.5, cp.sum(x) >= 2.5, x[1, 1] >= 1, x <= 1])


HULLS = {
    "k-subset": lambda: k_subset(12, 4),
    "pairs": lambda: pairs(12, 4),
    "Birkhoff": lambda: birkhoff(4),
    "subtours": lambda: trees_by_subtours(5),
    "Martin, dense": lambda: trees_by_martin(4),
    "Martin, sparse": lambda: trees_by_martin(6),
    "paths": lambda: grid_paths(4),
    "random": random_polytope,
    "random, many rows": lambda: random_polytope(10, 1, 40, seed=1),
    "half fixed": half_fixed,
}


def draw(structure: sst.Structure, count: int = 3, batch: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, batch, *structure.event_shape), dtype=torch.float64, generator=generator)
