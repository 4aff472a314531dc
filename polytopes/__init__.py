"""The library of structures: each file declares one hull, its argmax, vertices, log-partition and fast paths."""

from typing import TYPE_CHECKING, Any

import torch

import sst_cvx as sst
from polytopes.arborescence import Arborescence
from polytopes.at_most_k_subset import AtMostKSubset
from polytopes.correlated_k_subset import CorrelatedKSubset
from polytopes.hypercube import Hypercube
from polytopes.k_subset import KSubset
from polytopes.matching import Matching
from polytopes.matroid_bases import MatroidBases
from polytopes.one_hot import OneHot
from polytopes.path import Path
from polytopes.permutahedron import Permutahedron
from polytopes.projective_tree import ProjectiveTree
from polytopes.segment import Segment
from polytopes.soft_sorting import soft_rank, soft_sort, soft_top_k
from polytopes.spanning_tree import SpanningTree
from sst_cvx.once import CVXPY_LOCK, constants


def _fano_rank(sets: torch.Tensor) -> torch.Tensor:
    """The Fano plane's seven points, linear over GF(2) only: sets on a line have rank at most 2."""
    points = torch.tensor(
        [[0, 1, 2], [0, 3, 4], [0, 5, 6], [1, 3, 5], [1, 4, 6], [2, 3, 6], [2, 4, 5]], device=sets.device
    )
    lines = torch.zeros(7, 7, dtype=torch.bool, device=sets.device).scatter(1, points, True)
    on_a_line = (lines | ~sets[..., None, :]).all(-1).any(-1)
    return torch.minimum(sets.sum(-1), torch.where(on_a_line, 2, 3))


@constants()
def _examples() -> tuple[sst.Structure, ...]:
    diamond = torch.tensor([[0, 0, 1, 1, 2, 3, 1, 5], [1, 2, 2, 3, 3, 4, 4, 4]])  # vertex 5 is on no path
    triangles = torch.tensor([[0, 0, 1, 2, 3, 1, 3, 2], [1, 2, 3, 3, 1, 2, 0, 1]])  # one edge into the root
    # A multigraph with a loop, a bridge, parallel edges, and two components.
    forest = torch.tensor([[0, 0, 1, 1, 2, 2, 4], [1, 2, 2, 2, 3, 2, 5]])
    return (
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
        Matching(2, 3),
        Matching(3, 1),
        Matching(2, 3, partial=True),
        Permutahedron(torch.tensor([0.5])),
        Permutahedron(torch.linspace(0, 1, 4)),
        Permutahedron(torch.tensor([0.5, 0.0, 1.0, 0.5, 0.25])),
        Hypercube(1),
        Hypercube(4),
        AtMostKSubset(1, 0),
        AtMostKSubset(5, 2),
        AtMostKSubset(4, 4),
        CorrelatedKSubset(1, 0),
        CorrelatedKSubset(1, 1),
        CorrelatedKSubset(5, 2),
        CorrelatedKSubset(4, 4),
        CorrelatedKSubset(6, 3),
        SpanningTree(2),
        SpanningTree(4),
        Arborescence(2),
        Arborescence(4, root=1),
        Arborescence(3, root=None),
        Arborescence(4, single_root=True),
        Arborescence(triangles),
        ProjectiveTree(2, single_root=True),
        ProjectiveTree(4),
        Path(torch.tensor([[0], [1]]), 0, 1),
        Path(diamond, 0, 4),
        Segment(1),
        Segment(6, 2, 3),
        MatroidBases.uniform(5, 2),
        MatroidBases.partition(torch.tensor([0, 1, 0, 1, 0, 2, 3]), [2, 1, 1, 0]),
        MatroidBases.graphic(forest),
        MatroidBases(7, _fano_rank),
    )


if TYPE_CHECKING:
    #: Small instances that every test runs over, the degenerate ones included. Made when first asked for.
    EXAMPLES = _examples()


def __getattr__(name: str) -> Any:
    if name != "EXAMPLES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with CVXPY_LOCK:  # once, for all threads
        if name not in globals():
            globals()[name] = _examples()
        return globals()[name]


__all__ = [
    "EXAMPLES",
    "Arborescence",
    "AtMostKSubset",
    "CorrelatedKSubset",
    "Hypercube",
    "KSubset",
    "Matching",
    "MatroidBases",
    "OneHot",
    "Path",
    "Permutahedron",
    "ProjectiveTree",
    "Segment",
    "SpanningTree",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
]
