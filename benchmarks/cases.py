"""What is measured: structures, regularizers and sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs

EUCLIDEAN, CATEGORICAL, BINARY, TSALLIS, EXPONENTIAL = (
    sst.Euclidean(),
    sst.CategoricalEntropy(),
    sst.BinaryEntropy(),
    sst.TsallisEntropy(1.5),
    sst.ExponentialFamilyEntropy(),
)
#: A grid of 4 x 4 vertices with steps right and down: 24 edges, 20 paths from corner to corner.
_GRID = torch.tensor(
    [(i, i + 1) for i in range(16) if i % 4 < 3] + [(i, i + 4) for i in range(12)],
).T
SEPARABLE = (EUCLIDEAN, CATEGORICAL, BINARY, TSALLIS)


@dataclass(frozen=True)
class Case:
    """One block of rows. ``generic``: small enough for the layer and for plain cvxpylayers."""

    structure: sst.Structure
    regularizer: sst.Regularizer
    generic: bool = True

    @property
    def name(self) -> str:
        label = "pairs of 20, 5" if type(self.structure) is sst.Structure else repr(self.structure)
        return f"{label} {type(self.regularizer).__name__}"


def all_cases() -> list[Case]:
    """In the order of the table."""
    cases = [Case(polytopes.OneHot(20), f) for f in (*SEPARABLE, EXPONENTIAL)]
    cases += [Case(polytopes.KSubset(20, 5), f) for f in SEPARABLE]
    cases += [Case(polytopes.KSubset(100, 10), f) for f in (EUCLIDEAN, CATEGORICAL)]
    cases += [Case(polytopes.KSubset(8, 3), EXPONENTIAL)]
    cases += [Case(polytopes.AtMostKSubset(20, 5), f) for f in SEPARABLE]
    cases += [Case(polytopes.SpanningTree(5), EXPONENTIAL), Case(polytopes.SpanningTree(6), EUCLIDEAN)]
    cases += [Case(polytopes.Hypercube(20), f) for f in SEPARABLE]
    cases += [Case(polytopes.Path(_GRID, 0, 15), f) for f in (*SEPARABLE, EXPONENTIAL)]
    cases += [Case(polytopes.Segment(12, 2, 5), f) for f in (*SEPARABLE, EXPONENTIAL)]
    cases += [Case(polytopes.CorrelatedKSubset(10, 3), f) for f in (*SEPARABLE, EXPONENTIAL)]
    cases += [Case(polytopes.Matching(5), CATEGORICAL), Case(polytopes.Matching(4), EXPONENTIAL)]
    cases += [Case(pairs(20, 5), f) for f in (EUCLIDEAN, CATEGORICAL, BINARY)]
    large = [Case(polytopes.OneHot(1000), f, generic=False) for f in (EUCLIDEAN, TSALLIS, BINARY)]
    large += [Case(polytopes.KSubset(1000, 100), f, generic=False) for f in (*SEPARABLE, EXPONENTIAL)]
    large += [Case(polytopes.SpanningTree(n), EXPONENTIAL, generic=False) for n in (10, 30, 100)]
    large += [Case(polytopes.CorrelatedKSubset(350, 10), EXPONENTIAL, generic=False)]
    large += [Case(polytopes.Matching(50), CATEGORICAL, generic=False)]
    return cases + large
