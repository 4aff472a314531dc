"""The library under the caller's default device, inference mode and pickles: nothing changes, nothing is poisoned."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.oracles import fast_pairs

EXPONENTIAL = sst.ExponentialFamilyEntropy()
EDGES = torch.tensor([[0, 0, 1, 1, 2], [1, 2, 2, 3, 3]])
MULTIGRAPH = torch.tensor([[0, 0, 1, 1, 2], [1, 1, 2, 2, 0]])
GROUPS, CAPACITIES, WEIGHTS = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 1, 0]), torch.tensor([0.5, 0.0, 1.0, 0.5])

TARGET, COSTS, CAPACITY = torch.tensor([1, 1]), torch.tensor([[0, 1], [1, 0]]).expand(2, 2, 2), 1
ENDS, SUPPLY, STARTS = torch.tensor([[0, 0, 1, 2], [0, 1, 0, 1]]), torch.tensor([1, 0, 0, -1]), torch.tensor([0, 1, 3])


def at_most_two(sets: torch.Tensor) -> torch.Tensor:
    return sets.sum(-1).clamp(max=2)


MAKERS = {
    "OneHot": lambda: polytopes.OneHot(4),
    "KSubset": lambda: polytopes.KSubset(5, 2),
    "AtMostKSubset": lambda: polytopes.AtMostKSubset(5, 2),
    "Hypercube": lambda: polytopes.Hypercube(3),
    "CorrelatedKSubset": lambda: polytopes.CorrelatedKSubset(5, 2),
    "Segment": lambda: polytopes.Segment(6, 2, 3),
    "Matching": lambda: polytopes.Matching(2, 3),
    "Permutahedron": lambda: polytopes.Permutahedron(WEIGHTS),
    "SpanningTree": lambda: polytopes.SpanningTree(4),
    "SpanningTree of a graph": lambda: polytopes.SpanningTree(EDGES),
    "Arborescence": lambda: polytopes.Arborescence(4, single_root=True),
    "Arborescence of a graph": lambda: polytopes.Arborescence(EDGES),
    "Path": lambda: polytopes.Path(EDGES, 0, 3),
    "MatroidBases": lambda: polytopes.MatroidBases(4, at_most_two),
    "uniform": lambda: polytopes.MatroidBases.uniform(4, 2),
    "partition": lambda: polytopes.MatroidBases.partition(GROUPS, CAPACITIES),
    "graphic": lambda: polytopes.MatroidBases.graphic(MULTIGRAPH),
    "Chain": lambda: polytopes.Chain(3, 2),
    "SemiMarkov": lambda: polytopes.SemiMarkov(3, 2, 2),
    "Alignment": lambda: polytopes.Alignment(2, 3),
    "ConnectionistTemporal": lambda: polytopes.ConnectionistTemporal(TARGET, 4, 3),
    "budget": lambda: polytopes.Chain(3, 2).budget(COSTS, at_most=1),
    "ProjectiveTree": lambda: polytopes.ProjectiveTree(4, single_root=True),
    "BinaryTree": lambda: polytopes.BinaryTree(3, 2),
    "BMatching": lambda: polytopes.BMatching(ENDS, CAPACITY),
    "Flow": lambda: polytopes.Flow(EDGES, SUPPLY, CAPACITY),
    "StableSet": lambda: polytopes.StableSet(STARTS, STARTS + 2),
}
MODES = {
    "meta": lambda: torch.device("meta"),
    "inference": lambda: torch.inference_mode(),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def answers(structure: sst.Structure, u: torch.Tensor) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [
        structure.argmax(u),
        structure.vertices(),
        structure.log_partition(u),
        sst.SoftArgmax(structure, EXPONENTIAL)(u),
        structure.sample(u, generator),
    ]
    if structure.binary:
        mask = torch.ones_like(u, dtype=torch.bool)
        found += [structure.masked_argmax(u, mask), structure.masked_log_partition(u, mask)]
    return found


def test_all_classes_are_made_here():
    made = {type(make()) for make in MAKERS.values()}
    assert made == {type(example) for example in polytopes.EXAMPLES}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MAKERS)
def test_modes_at_construction_and_at_calls_change_nothing(name, mode):
    plain = MAKERS[name]()
    u = torch.randn(3, *plain.event_shape, dtype=torch.float64)
    expected = answers(plain, u)
    with MODES[mode]():
        made = MAKERS[name]()
        inside = answers(plain, u)
    for found in (answers(made, u), inside, answers(plain, u)):
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
def test_modes_change_no_fast_path(structure, regularizer, mode):
    soft = sst.SoftArgmax(structure, regularizer)
    u = torch.randn(3, *structure.event_shape)
    expected = soft(u)
    with MODES[mode]():
        found = soft(u)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", MAKERS)
def test_training_after_a_first_evaluation_in_inference_mode(name):
    with torch.inference_mode():
        structure = MAKERS[name]()
        answers(structure, torch.randn(2, *structure.event_shape))
    for fresh in (structure, MAKERS[name]()):  # caches of one instance, and of all
        u = torch.randn(2, *structure.event_shape, requires_grad=True)
        for value in (fresh.log_partition(u), sst.SoftArgmax(fresh, EXPONENTIAL)(u).square()):
            (g,) = torch.autograd.grad(value.sum(), u)
            assert bool(torch.isfinite(g).all())


def test_import_with_a_default_device():
    code = "import torch; torch.set_default_device('meta'); import polytopes; print(len(polytopes.EXAMPLES))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(polytopes.EXAMPLES)), done.stderr
