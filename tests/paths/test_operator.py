"""Solver paths as operators: compiled, exported, transformed; and elements that fail where the host is not asked."""

import gc

import cvxpy as cp
import pytest
import torch
from torch._dynamo.testing import CompileCounter

import polytopes
import sst_cvx as sst

FAMILIES = [
    (polytopes.KSubset(4, 2), sst.Euclidean(), "active_set"),
    (polytopes.KSubset(4, 2), sst.BinaryEntropy(), "interior_point"),
    (polytopes.KSubset(4, 2), sst.Euclidean(), "layer"),
]
pairs = pytest.mark.parametrize(("structure", "f", "path"), FAMILIES, ids=["active_set", "interior_point", "layer"])
grad, vmap, jacrev, jacfwd = torch.func.grad, torch.func.vmap, torch.func.jacrev, torch.func.jacfwd


def utilities(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def with_gradient(function, u):
    leaf = u.clone().requires_grad_()
    x = function(leaf)
    return x.detach(), torch.autograd.grad(x.pow(3).sum(), leaf)[0]


def same(found, expected, tolerance=1e-8):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.fixture
def capped():
    x, k, c = cp.Variable(4), cp.Parameter(nonneg=True, name="k"), cp.Parameter(4, name="c")
    structure = sst.Structure(x, [x >= 0, x <= 1, x <= c, cp.sum(x) == k])
    return sst.SoftArgmax(structure, sst.BinaryEntropy())


@pairs
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_cold(structure, f, path, backend):
    torch._dynamo.reset()
    soft, u = sst.SoftArgmax(structure, f, path=path), utilities(3)
    t = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    found = with_gradient(torch.compile(lambda v: soft(v, t), fullgraph=True, backend=backend), u)
    same(found, with_gradient(lambda v: soft(v, t), u))


@pairs
def test_batch_sizes_make_two_graphs(structure, f, path):
    torch._dynamo.reset()
    soft = sst.SoftArgmax(structure, f, path=path)
    counter = CompileCounter()
    compiled = torch.compile(soft, fullgraph=True, backend=counter)
    for count in (2, 3, 5, 7):
        same([compiled(utilities(count), 0.7)], [soft(utilities(count), 0.7)])
    assert counter.frame_count <= 2


@pairs
def test_exported(structure, f, path):
    program = torch.export.export(sst.SoftArgmax(structure, f, path=path), (utilities(3),)).module()
    gc.collect()
    same([program(utilities(3))], [sst.SoftArgmax(structure, f, path=path)(utilities(3))])


@pairs
def test_mapped(structure, f, path):
    soft, u = sst.SoftArgmax(structure, f, path=path), utilities(2, 3)
    t, mask = torch.rand(2, 3, dtype=torch.float64) + 0.5, torch.ones(2, 3, 4, dtype=torch.bool)
    mask[..., 0] = False
    expected = with_gradient(lambda v: soft(v, t, mask=mask), u)
    same(with_gradient(lambda v: vmap(lambda u, t, m: soft(u, t, mask=m))(v, t, mask), u), expected)
    same(with_gradient(lambda v: vmap(vmap(lambda u, t, m: soft(u, t, mask=m)), 1, 1)(v, t, mask), u), expected)
    leaves = u.clone().requires_grad_(), t.clone().requires_grad_()
    expected = torch.autograd.grad(soft(*leaves).pow(3).sum(), leaves)
    same(vmap(grad(lambda u, t: soft(u, t).pow(3).sum(), (0, 1)))(u, t), expected)


@pairs
def test_jacobians(structure, f, path):
    soft, u = sst.SoftArgmax(structure, f, path=path), utilities(2)
    expected = torch.stack([torch.autograd.functional.jacobian(soft, v) for v in u])
    same([vmap(jacrev(soft))(u), vmap(jacfwd(soft))(u)], [expected] * 2, 1e-7)


@pytest.mark.parametrize(("structure", "f", "path"), FAMILIES[:2], ids=["active_set", "interior_point"])
def test_hessians(structure, f, path):
    soft, u = sst.SoftArgmax(structure, f, path=path), utilities()
    expected = torch.autograd.functional.hessian(lambda v: soft(v).pow(3).sum(), u)
    value = lambda v: soft(v).pow(3).sum()  # noqa: E731
    same([torch.func.hessian(value)(u), jacrev(grad(value))(u)], [expected] * 2, 1e-7)


def test_the_layer_is_differentiable_once():
    soft, u = sst.SoftArgmax(*FAMILIES[2][:2], path="layer"), utilities()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.func.hessian(lambda v: soft(v).pow(3).sum())(u)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.functional.hessian(lambda v: soft(v).pow(3).sum(), u)


def test_hull_parameters(capped):
    u, k = utilities(3), torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64)
    c = torch.full((3, 4), 0.8, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (u, k, c)]

    def value(u, k, c):
        return capped(u, 0.7, k=k, c=c).pow(3).sum()

    expected = torch.autograd.grad(value(*leaves), leaves)
    same(vmap(grad(value, (0, 1, 2)))(u, k, c), expected)
    torch._dynamo.reset()
    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    same(torch.autograd.grad(compiled(*leaves), leaves), expected)
    forwards = jacfwd(lambda k: capped(u[0], 0.7, k=k, c=c[0]))(k[0])
    same([forwards], [jacrev(lambda k: capped(u[0], 0.7, k=k, c=c[0]))(k[0])])


def test_what_fails_is_nan_and_told_later(capped):
    u, k = utilities(4), torch.tensor([1.0, 9.0, -1.0, 2.0], dtype=torch.float64)
    u[3, 1] = torch.nan
    c, failed = torch.ones(4, 4, dtype=torch.float64), torch.tensor([False, True, True, True])
    leaves = [x.clone().requires_grad_() for x in (u, k, c)]
    with sst.guard("nan"):
        x = capped(leaves[0], 0.7, k=leaves[1], c=leaves[2])
        gradients = torch.autograd.grad(x.pow(3).sum(), leaves)
    for part in (x, *gradients):
        assert torch.equal(part.reshape(4, -1).isnan().all(1), failed)
    same([x[0]], [capped(u[0], 0.7, k=k[0], c=c[0])])
    with pytest.raises(sst.SolveError, match="batch element"):
        sst.synchronize()
    torch._dynamo.reset()

    def call(u, k, c):
        return capped(u, 0.7, k=k, c=c)

    for mode in (torch.compile(call, fullgraph=True, backend="eager"), vmap(call)):
        assert torch.equal(mode(u, k, c).isnan().all(1), failed)
    sst.synchronize()


def test_errors_are_named_where_they_are_raised():
    soft = sst.SoftArgmax(*FAMILIES[2][:2], path="layer")
    u = utilities(2, 2)
    u[1, 0] *= 1e9
    with pytest.raises(sst.SolveError) as caught:
        grad(lambda v: soft(v).sum())(u)
    assert caught.value.elements == ((1, 0),)


def test_a_program_whose_soft_argmax_is_gone():
    number = sst.SoftArgmax(*FAMILIES[1][:2])._number
    gc.collect()
    u = utilities(1)
    with pytest.raises(RuntimeError, match="not there"):
        torch.ops.sst_cvx.solve(u, u[:, 0], [], None, [1], number, True, False)
