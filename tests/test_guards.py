"""Guards: the quick test never accepts what the whole one refuses, and refuses little of what it accepts."""

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.paths.guards import VIOLATION
from tests.hulls import birkhoff, pairs, random_polytope


def shifted() -> sst.Structure:
    """Bounds of different size and sign: what is accepted is relative to each."""
    x = cp.Variable(4)
    return sst.Structure(x, [x >= [-1e4, -1, 3, 3], x <= [-2, 1e4, 3, 5], cp.sum(x) <= 1e4])


STRUCTURES = [
    polytopes.KSubset(5, 2),
    polytopes.Hypercube(3),
    birkhoff(3),
    pairs(),
    random_polytope(8, 2, 4),
    shifted(),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_quick_and_whole(structure, dtype):
    tolerance = VIOLATION[dtype]
    inside = structure.argmax(torch.randn(64, *structure.event_shape, dtype=torch.float64)).reshape(64, -1)
    size = 1 + inside.abs()
    for distance in (0.0, 0.3, 0.9, 1.1, 3.0, 1e4):
        for direction in torch.randn(8, *inside.shape, dtype=torch.float64).sign() * size:
            x = (inside + distance * tolerance * direction).to(dtype)
            for part in (x, x[:1]):
                quick = structure.surely_within(part, tolerance)
                whole = bool((structure.violation(part) <= tolerance).all())
                assert whole or not quick


def test_quick_is_what_answers_take():
    """Else it would be for nothing."""
    for structure in STRUCTURES:
        x = sst.SoftArgmax(structure, sst.Euclidean())(torch.randn(32, *structure.event_shape))
        assert structure.surely_within(x.reshape(32, -1), VIOLATION[torch.float32])


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_not_a_number_is_never_inside(structure):
    x = structure.argmax(torch.randn(4, *structure.event_shape)).reshape(4, -1)
    for bad in (torch.nan, torch.inf, -torch.inf):
        x[2, 1] = bad
        assert not structure.surely_within(x, 1e-5)
        assert not bool((structure.violation(x) <= 1e-5).all())


def test_parameters_are_seen_without_cvxpy():
    """Right sides, coefficients, auxiliary rows: against CVXPY's own violation."""
    x, cap, factors = cp.Variable(4), cp.Parameter(nonneg=True, name="cap"), cp.Parameter(4, name="factors")
    z = cp.Variable(2)
    for constraints, names in (
        ([x >= 0, x <= cap, cp.sum(x) <= 2 * cap], ("cap",)),
        ([x >= -3, x <= 3, factors @ x <= 1], ("factors",)),
        ([x >= 0, x <= 1, cp.sum(x) == cap, z >= 0, cp.sum(z) == x[0]], ("cap",)),
    ):
        structure = sst.Structure(x, constraints)
        values = {"cap": torch.tensor([0.5, 1.0, 2.0]), "factors": torch.randn(3, 4)}
        given = structure.flat_parameters({name: values[name] for name in names}, torch.Size([3]))
        points = torch.randn(3, 4, dtype=torch.float64)
        found = structure.violation(points, given)
        for i in range(3):
            x.value = points[i].numpy()
            for p in structure.parameters:
                p.value = given[p.name()][i].numpy()
            rows = [c for c in constraints if z.id not in {v.id for v in c.variables()}]
            truth = max(float(c.violation().max()) for c in rows)
            assert (float(found[i]) > 1e-9) == (truth > 1e-9)
            assert float(found[i]) <= truth + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("structure", [polytopes.KSubset(5000, 2000), polytopes.OneHot(20_000)], ids=repr)
def test_long_sums_of_right_answers_are_within_the_hull(structure, dtype):
    """They are added in float64: in float32 they missed by more than the tolerance."""
    u = torch.randn(4, structure.n, generator=torch.Generator().manual_seed(0)).to(dtype)
    for regularizer in (sst.Euclidean(), sst.BinaryEntropy(), sst.CategoricalEntropy()):
        for mode in ("raise", "nan"):
            with sst.guard(mode):
                assert torch.isfinite(sst.SoftArgmax(structure, regularizer)(u, 0.5)).all()
    sst.synchronize()


def test_cotangents_in_batches_of_the_older_vmap_are_refused():
    soft = sst.SoftArgmax(polytopes.Path(torch.tensor([[0, 0, 1], [1, 2, 2]]), 0, 2), sst.CategoricalEntropy())
    u = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="jacrev"):
        torch.autograd.functional.jacobian(soft, u, vectorize=True)
    assert torch.equal(torch.func.jacrev(soft)(u), torch.autograd.functional.jacobian(soft, u))
