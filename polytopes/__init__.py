"""The library of structures: each file declares one hull, its argmax, vertices, log-partition and fast paths."""

from polytopes.k_subset import KSubset
from polytopes.matching import Matching
from polytopes.one_hot import OneHot

#: Small instances that every test runs over, the degenerate ones included.
EXAMPLES = (
    OneHot(1),
    OneHot(2),
    OneHot(5),
    KSubset(1, 0),
    KSubset(1, 1),
    KSubset(4, 0),
    KSubset(4, 4),
    KSubset(5, 1),
    KSubset(6, 2),
    KSubset(7, 6),
    Matching(1),
    Matching(2),
    Matching(4),
)

__all__ = ["EXAMPLES", "KSubset", "Matching", "OneHot"]
