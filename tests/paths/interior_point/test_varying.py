"""Parameters that multiply variables: a matrix of each element its own."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from tests.paths.interior_point.table import REGULARIZERS

each = pytest.mark.parametrize("f", REGULARIZERS, ids=repr)


def equalities(n: int = 6, m: int = 2) -> sst.Structure:
    """A x = b."""
    x, A, b = cp.Variable(n), cp.Parameter((m, n), name="A"), cp.Parameter(m, name="b")
    return sst.Structure(x, [x >= 0, x <= 1, A @ x == b])


def knapsacks(n: int = 4) -> sst.Structure:
    """Several budgets, and rows and bounds without parameters."""
    x, cost, most = cp.Variable(n), cp.Parameter((2, n), nonneg=True, name="cost"), cp.Parameter(name="most")
    return sst.Structure(x, [x >= 0, x <= 1, cost @ x <= most, x[0] + x[1] <= 1.2, x[3] == 0.25])


def lifted() -> sst.Structure:
    """With auxiliary variables, a matrix event, and an entry that is affine in two parameters."""
    x, z = cp.Variable((2, 2)), cp.Variable(3)
    a, c = cp.Parameter(3, name="a"), cp.Parameter(name="c")
    rows = [x >= 0, x <= 1, z >= 0, z <= 2, a @ z == 1 + c, x[0, 0] + x[1, 0] <= (a[0] + c) * z[0], x[:, 1] <= z[1:]]
    return sst.Structure(x, rows)


def many_rows(n: int = 3) -> sst.Structure:
    """More rows than columns: the condensed system."""
    x, G = cp.Variable(n), cp.Parameter((8, n), name="G")
    return sst.Structure(x, [x >= 0, x <= 1, G @ x <= 1, cp.sum(x) >= 0.2])


def draws(name: str, batch: int = 3) -> tuple[sst.Structure, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape, dtype=torch.float64, generator=g)

    if name == "equalities":
        A = uniform(2, 6) - 0.3
        return equalities(), {"A": A, "b": (A @ (0.2 + 0.6 * uniform(6, 1)))[..., 0]}
    if name == "knapsacks":
        return knapsacks(), {"cost": 0.3 + uniform(2, 4), "most": 0.8 + uniform()}
    if name == "many rows":
        return many_rows(), {"G": 2 * uniform(8, 3) - 0.3}
    return lifted(), {"a": 0.5 + uniform(3), "c": uniform()}


names = pytest.mark.parametrize("name", ["equalities", "knapsacks", "many rows", "lifted"])


@each
@names
def test_as_the_layer_and_as_differences(f, name, never_the_layer):
    structure, values = draws(name)
    soft = sst.SoftArgmax(structure, f)
    assert soft.path == "interior_point"
    assert "matrix of each element" in repr(soft)
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    difference = soft(u, **values) - soft.reference()(u, **values)
    assert float(difference.abs().max()) < 1e-6
    inputs = [v.clone().requires_grad_() for v in (u, *values.values())]

    def answer(u: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return soft(u, 0.7, **dict(zip(values, given, strict=True)))

    assert torch.autograd.gradcheck(answer, inputs, atol=1e-6, fast_mode=True)


@names
def test_alone_as_in_a_batch(name, monkeypatch):
    structure, values = draws(name, 5)
    soft, u = sst.SoftArgmax(structure, sst.BinaryEntropy()), torch.randn(5, *structure.event_shape).double()
    together = soft(u, 0.3, **values)
    for i in range(5):
        alone = soft(u[i], 0.3, **{key: v[i] for key, v in values.items()})
        torch.testing.assert_close(alone, together[i], atol=1e-10, rtol=0)
    monkeypatch.setattr("sst_cvx.paths.interior_point.tolerances.CHUNK", 1)
    torch.testing.assert_close(soft(u, 0.3, **values), together, atol=1e-10, rtol=0)


def test_one_row_in_closed_form(never_the_layer):
    """min |x - u|^2 / 2 over a'x = b: x = u - a (a'u - b) / a'a, whose derivatives are elementary."""
    x, a, b = cp.Variable(4), cp.Parameter(4, name="a"), cp.Parameter(name="b")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= -50, x <= 50, a @ x == b]), sst.Euclidean())
    u, v = torch.randn(2, 6, 4, dtype=torch.float64)
    leaves = [p.requires_grad_() for p in (u, torch.randn(6, 4).double() * 3, torch.randn(6).double())]

    def closed(u: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return u - a * (((a * u).sum(1) - b) / (a * a).sum(1))[:, None]

    ours, truth = soft(leaves[0], 1.0, a=leaves[1], b=leaves[2]), closed(*leaves)
    torch.testing.assert_close(ours, truth, atol=1e-10, rtol=0)
    pairs = (torch.autograd.grad((y * v).sum(), leaves) for y in (ours, truth))
    for g, h in zip(*pairs, strict=True):
        torch.testing.assert_close(g, h, atol=1e-8, rtol=1e-8)


def test_scales_of_rows_do_not_count(never_the_layer):
    """Rows times 1e6 and 1e-6 are the same hull; the gradient by them is that divided."""
    structure, values = draws("equalities")
    soft, u = sst.SoftArgmax(structure, sst.CategoricalEntropy()), torch.randn(3, 6).double()
    scale, found = torch.tensor([1e6, 1e-6], dtype=torch.float64), []
    for s in (torch.ones(2, dtype=torch.float64), scale):
        A, b = (values["A"] * s[:, None]).requires_grad_(), (values["b"] * s).requires_grad_()
        y = soft(u, 0.5, A=A, b=b)
        g, h = torch.autograd.grad(y.pow(3).sum(), (A, b))
        found.append((y, g * s[:, None], h * s))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=0)


def test_what_has_no_answer_is_named():
    structure, values = draws("equalities")
    soft, u = sst.SoftArgmax(structure, sst.Euclidean()), torch.zeros(3, 6)
    with pytest.raises(sst.SolveError, match="batch element 1") as caught:
        soft(u, A=values["A"], b=values["b"] + torch.tensor([[0.0], [50.0], [0.0]]))
    assert caught.value.elements == ((1,),)
    with pytest.raises(ValueError, match=r"parameter A has shape \(3, 2, 5\)"):
        soft(u, A=values["A"][..., :5], b=values["b"])
    with pytest.raises(ValueError, match="parameter A"):
        soft(u, A=values["A"] * torch.nan, b=values["b"])


def test_a_zero_row():
    """0 x <= most is no constraint, 0 x == b none that can be kept."""
    structure, values = draws("knapsacks")
    soft, u = sst.SoftArgmax(structure, sst.Euclidean()), torch.ones(3, 4).double()
    cost = values["cost"] * torch.tensor([[1.0], [0.0]])
    one = soft(u, cost=cost, most=values["most"])
    torch.testing.assert_close(one, soft(u, cost=cost[:, [0, 0]], most=values["most"]), atol=1e-9, rtol=0)
    structure, values = draws("equalities")
    with pytest.raises(sst.SolveError):
        sst.SoftArgmax(structure, sst.Euclidean())(torch.zeros(3, 6), A=0 * values["A"], b=values["b"])


def test_second_derivatives_are_refused():
    structure, values = draws("equalities")
    soft, u = sst.SoftArgmax(structure, sst.BinaryEntropy()), torch.randn(3, 6, dtype=torch.float64)
    leaves = [v.clone().requires_grad_() for v in (u, values["A"])]
    y = soft(leaves[0], A=leaves[1], b=values["b"])
    for i in (0, 1):
        (g,) = torch.autograd.grad(y.pow(2).sum(), leaves[i], create_graph=True)
        with pytest.raises(NotImplementedError, match="differentiable once"):
            torch.autograd.grad(g.sum(), leaves[0])


def test_at_the_end_of_a_range():
    """a x1 + x2 <= b at b = 0: more goes to the item with the better u_i / a_i; cold vertices have room on one side."""
    x, a, b = cp.Variable(2), cp.Parameter(2, nonneg=True, name="a"), cp.Parameter(name="b")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, a @ x <= b]), sst.Euclidean())
    u, cost = torch.tensor([1.5, 0.8]).double(), torch.tensor([4.0, 2.0]).double()
    for capacity in (0.0, 1e-12, 1e-6):
        c = torch.tensor(capacity, dtype=torch.float64, requires_grad=True)
        g = torch.stack([torch.autograd.grad(soft(u, a=cost, b=c)[i], c)[0] for i in (0, 1)])
        torch.testing.assert_close(g, torch.tensor([0.0, 0.5]).double(), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_inside_torch():
    structure, values = draws("knapsacks")
    soft, u = sst.SoftArgmax(structure, sst.BinaryEntropy()), torch.randn(3, 4, dtype=torch.float64)
    leaves = [v.clone().requires_grad_() for v in (u, *values.values())]

    def value(u: torch.Tensor, cost: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        return soft(u, 0.7, cost=cost, most=most).pow(3).sum()

    expected = torch.autograd.grad(value(*leaves), leaves)
    mapped = torch.func.vmap(torch.func.grad(value, (0, 1, 2)))(*(v.detach() for v in leaves))
    torch._dynamo.reset()
    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    for found in (mapped, torch.autograd.grad(compiled(*leaves), leaves)):
        for g, h in zip(found, expected, strict=True):
            torch.testing.assert_close(g, h, atol=1e-8, rtol=0)
    cost, most = (v[0] for v in values.values())
    forwards = torch.func.jacfwd(lambda c: soft(u[0], 0.7, cost=c, most=most))(cost)
    backwards = torch.func.jacrev(lambda c: soft(u[0], 0.7, cost=c, most=most))(cost)
    torch.testing.assert_close(forwards, backwards, atol=1e-8, rtol=0)
    with sst.guard("nan"):
        x = soft(u, 0.7, cost=values["cost"], most=torch.tensor([1.0, -1.0, 1.0]))
    assert x.isnan().all(1).tolist() == [False, True, False]
    with pytest.raises(sst.SolveError, match="batch element"):
        sst.synchronize()
