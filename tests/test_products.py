"""Independent structures as one: equal to their parts bit for bit, on every path, under masks, compilers and faults."""

from __future__ import annotations

import copy
import pickle

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.checks import REGULARIZERS


def three() -> sst.Product:
    return sst.Product(tree=polytopes.SpanningTree(3), picks=polytopes.KSubset(6, 2), run=polytopes.Segment(5, 2, 3))


def utilities(structure: sst.Structure, *batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, *structure.event_shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
def test_equal_to_its_parts_bit_for_bit(regularizer: sst.Regularizer) -> None:
    both = three()
    soft, u, t = sst.SoftArgmax(both, regularizer), utilities(both, 2, 3).requires_grad_(), 0.7
    x = soft(u, t)
    (g,) = torch.autograd.grad(x, u, torch.ones_like(x).cumsum(-1))
    assert soft.path == "product"
    for factor, part, of_u, of_g in zip(both.factors, *(both.split(v).values() for v in (x, u, g)), strict=True):
        own = of_u.detach().clone().requires_grad_()
        y = sst.SoftArgmax(factor.structure, regularizer)(own, t)
        assert torch.equal(y, part)
        weights = torch.ones_like(x).cumsum(-1)[..., factor.start : factor.stop]
        assert torch.equal(torch.autograd.grad(y, own, weights)[0], of_g)
    if not isinstance(regularizer, (sst.Euclidean, sst.TsallisEntropy)):
        logs = both.split(soft.log(u, t))["picks"]
        own = sst.SoftArgmax(both.factors[1].structure, regularizer).log(both.split(u)["picks"], t)
        assert torch.equal(logs, own)


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("structure", [polytopes.KSubset(5, 2), polytopes.SpanningTree(3)], ids=repr)
def test_a_power_is_a_batch(structure: sst.Structure, regularizer: sst.Regularizer) -> None:
    power = structure**3
    soft, u = sst.SoftArgmax(power, regularizer), utilities(power, 2).requires_grad_()
    t = torch.tensor([0.5, 2.0], dtype=torch.float64)
    expected = sst.SoftArgmax(structure, regularizer)(u, t[:, None])
    assert power.event_shape == (3, *structure.event_shape)
    assert torch.equal(soft(u, t), expected)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[0, 1, 0] = mask[1, 2, 1] = False
    part = sst.SoftArgmax(structure, regularizer)(u, t[:, None], mask=mask)
    assert torch.equal(soft(u, t, mask=mask), part)
    assert torch.equal(soft(u.detach().masked_fill(~mask, -torch.inf), t), part)
    assert torch.equal(power.masked_argmax(u, mask), structure.masked_argmax(u, mask))


@pytest.mark.parametrize(
    "structure",
    [sst.Product(polytopes.KSubset(3, 1), polytopes.Segment(3)), polytopes.SpanningTree(3) ** 2],
    ids=repr,
)
def test_certified(structure: sst.Structure) -> None:
    few = [sst.Euclidean(), sst.BinaryEntropy(), sst.ExponentialFamilyEntropy()]
    sst.check(structure, few, temperatures=(0.1,), verbose=False).raise_if_failed()


def test_sums_samples_and_lists() -> None:
    both = sst.Product(polytopes.OneHot(3), polytopes.KSubset(4, 2))
    u = utilities(both, 2)
    points = both.vertices()
    assert len(points) == 18
    torch.testing.assert_close(both.log_partition(u), (u @ points.T).logsumexp(-1), rtol=1e-12, atol=1e-12)
    assert bool((both.sample(u).sum(-1) == 3).all())
    best = points[(u @ points.T).argmax(-1)]
    assert torch.equal(both.argmax(u), best)
    q = sst.StochasticSoftmax(
        sst.SoftArgmax(both, sst.ExponentialFamilyEntropy()),
        utilities=torch.distributions.Gumbel(torch.zeros(2, 7), 1.0),
        temperature=0.5,
    )
    assert q.rsample().shape == (2, 7)
    many, v = polytopes.KSubset(8, 4) ** 4, utilities(polytopes.KSubset(8, 4) ** 4, 2)  # too many to list
    soft = sst.SoftArgmax(many, sst.ExponentialFamilyEntropy())
    assert float(soft.gap(v, soft(v, 0.5), 0.5).max()) < 1e-12
    assert float(soft.gap(v, soft(v, 0.6), 0.5).min()) > 1e-4
    family = sst.ExponentialFamily(both, u)
    assert family.log_prob(best).shape == (2,)


def test_join_and_split() -> None:
    both = three()
    parts = {"tree": torch.randn(4, 1, 3), "picks": torch.randn(6), "run": torch.randn(1, 3, 5)}
    joined = both.join(**parts)
    assert joined.shape == (4, 3, 14)
    assert torch.equal(both.split(joined)["run"], parts["run"].expand(4, 3, 5))
    with pytest.raises(TypeError, match="join takes"):
        both.join(tree=parts["tree"])
    with pytest.raises(ValueError, match=r"part of SpanningTree\(3\)"):
        both.join(**(parts | {"tree": torch.randn(5)}))
    with pytest.raises(TypeError, match="by position or by name"):
        sst.Product()
    with pytest.raises(TypeError, match="instances"):
        sst.Product(polytopes.KSubset)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must"):
        polytopes.OneHot(2) ** 0


def budgeted(name: str) -> sst.Structure:
    x, budget = cp.Variable(3, nonneg=True), cp.Parameter(name=name)
    return sst.Structure(x, [x <= 1, cp.sum(x) <= budget])


def test_parameters_of_factors_are_those_of_the_product() -> None:
    both = sst.Product(budgeted("first"), budgeted("second"))
    u = utilities(both, 4)
    values = {
        name: torch.full((4,), c, dtype=torch.float64, requires_grad=True)
        for name, c in [("first", 1.5), ("second", 0.5)]
    }
    soft = sst.SoftArgmax(both, sst.Euclidean())
    x = soft(u, 0.5, **values)
    whole = sst.SoftArgmax(both, sst.Euclidean(), path="interior_point")(u, 0.5, **values)
    torch.testing.assert_close(x, whole, rtol=0, atol=1e-9)
    weights = torch.arange(6.0, dtype=torch.float64)
    for name, value in values.items():
        (a,), (b,) = (torch.autograd.grad(y, value, weights.expand(4, 6), retain_graph=True) for y in (x, whole))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7, msg=name)
    twice = budgeted("budget") ** 2
    x = sst.SoftArgmax(twice, sst.Euclidean())(utilities(twice, 2), budget=torch.tensor([0.5, 1.0]))
    assert bool((x.sum(-1) <= torch.tensor([[0.5], [1.0]]) + 1e-9).all())
    with pytest.raises(ValueError, match="have one name"):
        sst.Product(budgeted("same"), budgeted("same"))


def test_factors_without_a_hull() -> None:
    known = sst.Structure.from_argmax(4, polytopes.KSubset(4, 2).argmax)
    both = sst.Product(known, polytopes.OneHot(3))
    u = utilities(both, 5)
    x = sst.SoftArgmax(both, sst.Euclidean())(u)
    expected = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean())(u[:, :4])
    torch.testing.assert_close(x[:, :4], expected, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="no hull"):
        sst.SoftArgmax(both, sst.BinaryEntropy())


def test_failures_are_named_by_the_callers_elements() -> None:
    twice = budgeted("budget") ** 3
    soft, u = sst.SoftArgmax(twice, sst.Euclidean()), utilities(twice, 2, 2)
    budget = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    with pytest.raises(sst.SolveError) as caught:
        soft(u, budget=budget)
    assert caught.value.elements == ((1, 0),)
    x, info = soft(u, budget=budget, on_failure="nan", return_info=True)
    assert bool(x[1, 0].isnan().all())
    assert bool(x[0].isfinite().all())
    assert info.status[1, 0] != "solved"
    with sst.guard("nan"):
        x = soft(u, budget=budget)
    assert bool(x[1, 0].isnan().all())
    assert bool(x[0].isfinite().all())
    assert bool(x[1, 1].isfinite().all())
    with pytest.raises(sst.SolveError) as caught:
        sst.synchronize()
    assert caught.value.elements == ((1, 0),)


def test_where_the_host_is_not_asked() -> None:
    both = sst.Product(polytopes.OneHot(3), polytopes.SpanningTree(3) ** 2)
    soft, u = sst.SoftArgmax(both, sst.CategoricalEntropy()), utilities(both, 4)
    expected = soft(u, 0.5)
    torch.testing.assert_close(torch.func.vmap(lambda v: soft(v, 0.5))(u), expected, rtol=0, atol=1e-10)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: soft(v, 0.5)))(u)
    assert bool((jacobian[:, :3, 3:] == 0).all())
    assert jacobian.shape == (4, 9, 9)
    compiled = torch.compile(lambda v: soft(v, 0.5), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(u), expected, rtol=0, atol=1e-10)


def test_weights_and_other_regularizers() -> None:
    both = sst.Product(polytopes.KSubset(4, 2), polytopes.Segment(3))
    weights, u = torch.linspace(0.5, 2, 7), utilities(both, 3)
    weighted = sst.SoftArgmax(both, sst.Euclidean(weights=weights))
    whole = sst.SoftArgmax(both, sst.Euclidean(weights=weights), path="interior_point")
    assert weighted.path == "product"
    torch.testing.assert_close(weighted(u), whole(u), rtol=0, atol=1e-9)
    differ = sst.SoftArgmax(polytopes.KSubset(3, 1) ** 2, sst.Euclidean(weights=torch.rand(2, 3) + 0.5))
    assert differ.path == "interior_point"
    assert "differ among the copies" in repr(differ)
    coupled = sst.Regularizer(
        lambda x: cp.sum_squares(x) + cp.square(cp.sum(x[2:5])), lambda x: x.square().sum(-1) + x[..., 2:5].sum(-1) ** 2
    )
    assert sst.SoftArgmax(both, coupled).path == "layer"


def test_identity_copies_and_pickles() -> None:
    both = three()
    assert both == three()
    assert hash(both) == hash(three())
    assert both != three() ** 1
    soft, u = sst.SoftArgmax(both, sst.Euclidean()), utilities(both, 2)
    for other in (copy.deepcopy(soft), pickle.loads(pickle.dumps(soft))):
        assert torch.equal(other(u), soft(u))
        assert other.path == "product"
    assert repr(polytopes.OneHot(2) ** 3) == "OneHot(n=2) ** 3"
    assert "tree=SpanningTree(3)" in repr(both)
