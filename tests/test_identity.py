"""Library structures are equal, and hash alike, by what they are; and they travel between processes."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.test_library_modes import EDGES, MAKERS, MULTIGRAPH, answers, at_most_two

DIFFERENT = [
    *polytopes.EXAMPLES,
    polytopes.KSubset(7, 5),
    polytopes.AtMostKSubset(5, 3),
    polytopes.CorrelatedKSubset(5, 3),
    polytopes.Segment(6, 2, 4),
    polytopes.Segment(6, 1, 3),
    polytopes.Matching(3, 2),
    polytopes.Matching(3, 1, partial=True),
    polytopes.Permutahedron(torch.tensor([0.5, 0.0, 1.0, 0.5, 0.26])),
    polytopes.SpanningTree(EDGES),
    polytopes.SpanningTree(EDGES[:, [1, 0, 2, 3, 4]]),
    polytopes.Arborescence(EDGES),
    polytopes.Arborescence(EDGES, root=None),
    polytopes.Arborescence(4, root=2),
    polytopes.Path(EDGES, 0, 3),
    polytopes.Path(EDGES, 0, 2),
    polytopes.Path(EDGES[:, :4], 0, 3),
    polytopes.MatroidBases.uniform(5, 3),
    polytopes.MatroidBases.partition(torch.tensor([0, 0, 1]), [1, 1]),
    polytopes.MatroidBases.partition(torch.tensor([0, 1, 1]), [1, 1]),
    polytopes.MatroidBases.graphic(MULTIGRAPH),
    polytopes.MatroidBases.graphic(MULTIGRAPH[:, :4]),
    polytopes.MatroidBases(4, at_most_two),
    polytopes.MatroidBases(4, at_most_two),
]


def test_different_structures_differ():
    for first, second in itertools.combinations(DIFFERENT, 2):
        assert first != second
        assert second != first


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "MatroidBases"])
def test_the_same_made_twice_is_equal(name):
    first, second = MAKERS[name](), MAKERS[name]()
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second}) == 1


def test_the_same_by_another_way():
    assert polytopes.Matching(3) == polytopes.Matching(3, 3)
    assert polytopes.SpanningTree(4) == polytopes.SpanningTree(polytopes.SpanningTree(4).edge_index)
    uniform = polytopes.MatroidBases.partition(torch.zeros(5, dtype=torch.int32), [2])
    assert uniform == polytopes.MatroidBases.uniform(5, 2)
    full = polytopes.MatroidBases.partition(torch.zeros(2, dtype=torch.long), [7])
    assert full == polytopes.MatroidBases.uniform(2, 2)
    assert polytopes.KSubset(5, 2) != polytopes.AtMostKSubset(5, 2)
    assert polytopes.KSubset(5, 2) != "KSubset(n=5, k=2)"


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_pickles_of_fresh_and_of_used_structures(name, used):
    structure = MAKERS[name]()
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64)
    expected = answers(structure, u)
    loaded = pickle.loads(pickle.dumps(structure if used else MAKERS[name]()))
    for mine, other in zip(answers(loaded, u), expected, strict=True):
        assert torch.equal(mine, other)
    assert (loaded == structure) == (name != "MatroidBases")  # by oracle, only itself
    soft = pickle.loads(pickle.dumps(sst.SoftArgmax(structure, sst.Euclidean())))
    assert torch.equal(soft(u), sst.SoftArgmax(structure, sst.Euclidean())(u))
