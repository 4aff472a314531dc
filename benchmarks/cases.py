"""What is measured: structures, regularizers and sizes."""

from __future__ import annotations

from dataclasses import dataclass

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
    cases += [Case(polytopes.Matching(5), CATEGORICAL), Case(polytopes.Matching(4), EXPONENTIAL)]
    cases += [Case(pairs(20, 5), f) for f in (EUCLIDEAN, CATEGORICAL, BINARY)]
    large = [Case(polytopes.OneHot(1000), f, generic=False) for f in (EUCLIDEAN, TSALLIS, BINARY)]
    large += [Case(polytopes.KSubset(1000, 100), f, generic=False) for f in (*SEPARABLE, EXPONENTIAL)]
    large += [Case(polytopes.SpanningTree(n), EXPONENTIAL, generic=False) for n in (10, 30, 100)]
    large += [Case(polytopes.Matching(50), CATEGORICAL, generic=False)]
    return cases + large
