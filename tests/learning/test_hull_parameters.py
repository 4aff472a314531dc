"""Tricks, estimators and Fenchel-Young losses over hulls with parameters, against differences and closed forms."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch
from torch.distributions import Gumbel, Normal

import polytopes
import sst_cvx as sst


def knapsack(n: int = 4) -> sst.Structure:
    """sum x <= capacity."""
    x, capacity = cp.Variable(n), cp.Parameter(nonneg=True, name="capacity")
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity])


def weighted() -> sst.Structure:
    """Two parameters, one of them a vector, and an auxiliary variable."""
    x, z = cp.Variable(3), cp.Variable(3)
    most, total = cp.Parameter(3, nonneg=True, name="most"), cp.Parameter(name="total")
    return sst.Structure(x, [x >= 0, x <= most, z >= x, z <= 2, cp.sum(z) <= 4, cp.sum(x) == total])


def multiplied() -> sst.Structure:
    """A parameter that multiplies the variable."""
    x, cost = cp.Variable(3), cp.Parameter(3, nonneg=True, name="cost")
    return sst.Structure(x, [x >= 0, x <= 1, cost @ x <= 1])


def ball() -> sst.Structure:
    """A cone."""
    x, radius = cp.Variable(3), cp.Parameter(nonneg=True, name="radius")
    return sst.Structure(x, [cp.norm(x) <= radius, x >= -2, x <= 2])


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64, requires_grad=True)


CASES = {
    "knapsack, Euclidean": (knapsack, sst.Euclidean, {"capacity": tensor(1.5)}),
    "knapsack, binary": (knapsack, sst.BinaryEntropy, {"capacity": tensor(2.5)}),
    "weighted, categorical": (weighted, sst.CategoricalEntropy, {"most": tensor(0.4, 0.9, 1.0), "total": tensor(1.2)}),
    "weighted, Euclidean": (weighted, sst.Euclidean, {"most": tensor(0.4, 0.9, 1.0), "total": tensor(1.2)}),
    "multiplied, Euclidean": (multiplied, sst.Euclidean, {"cost": tensor(0.5, 1.0, 0.7)}),
    "ball, Euclidean": (ball, sst.Euclidean, {"radius": tensor(0.8)}),
}


@pytest.mark.parametrize("name", CASES)
def test_fenchel_young_losses_are_differentiable_in_parameters(name):
    """L, its derivative by u (X - y, exactly) and by t and the parameters (differences); above 0, and 0 at X."""
    torch.manual_seed(1)
    make, regularizer, parameters = CASES[name]
    structure = make()
    soft = sst.SoftArgmax(structure, regularizer())
    loss = sst.FenchelYoungLoss(soft, "none")
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64) + 0.5
    t = torch.tensor([0.5, 0.7], dtype=torch.float64)
    values = {key: value.detach() for key, value in parameters.items()}
    y = 0.9 * soft(u.flip(0), 1.0, **values) if "total" not in values else soft(u.flip(0), 1.0, **values)
    at_solution = loss(u, soft(u, t, **values), t, **values)
    torch.testing.assert_close(at_solution, torch.zeros_like(at_solution), rtol=0, atol=1e-7)
    u.requires_grad_()
    given = {key: value.clone().requires_grad_() for key, value in values.items()}
    value = loss(u, y, t, **given)
    assert float(value.detach().min()) >= -1e-9
    gradients = torch.autograd.grad(value.sum(), [u, *given.values()])
    torch.testing.assert_close(gradients[0], soft(u, t, **values).detach() - y, rtol=0, atol=1e-12)
    assert max(float(g.abs().max()) for g in gradients[1:]) > 0.05  # some constraint is active

    def along(key: str, step: torch.Tensor) -> float:
        return float(loss(u.detach(), y, t, **(values | {key: values[key] + step})).sum())

    for key, ours in zip(given, gradients[1:], strict=True):
        steps = 1e-4 * torch.eye(max(1, ours.numel()), dtype=torch.float64).reshape(-1, *ours.shape)
        differences = [(along(key, step) - along(key, -step)) / 2e-4 for step in steps]
        assert ours.flatten().tolist() == pytest.approx(differences, abs=1e-5)


def test_each_element_has_parameters_of_its_own_and_one_for_all_adds_up():
    structure = knapsack()
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(structure, sst.BinaryEntropy()), "none")
    u = torch.randn(3, 4, dtype=torch.float64)
    y = torch.zeros_like(u)
    each = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    value = loss(u, y, 1.0, capacity=each)
    (own,) = torch.autograd.grad(value.sum(), each)
    for i in range(3):
        one = each[i].detach().clone().requires_grad_()
        alone = loss(u[i], y[i], 1.0, capacity=one)
        torch.testing.assert_close(alone, value[i])
        torch.testing.assert_close(torch.autograd.grad(alone, one)[0], own[i])
    shared = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (total,) = torch.autograd.grad(loss(u, y, 1.0, capacity=shared).sum(), shared)
    parts = [torch.autograd.grad(loss(v, y[0], 1.0, capacity=shared), shared)[0] for v in u]
    torch.testing.assert_close(total, torch.stack(parts).sum())


def test_second_derivatives_in_utilities_stay_and_those_in_parameters_are_refused():
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(knapsack(), sst.Euclidean()))
    u = torch.tensor([0.9, 0.6, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    capacity = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def slope(v):
        value = loss(v, torch.zeros(4).double(), 1.0, capacity=capacity)
        return torch.autograd.grad(value, v, create_graph=True)[0][0]

    (second,) = torch.autograd.grad(slope(u), u)
    step = torch.tensor([1e-5, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(second[0], (slope(u + step) - slope(u - step)) / 2e-5, rtol=0, atol=1e-6)
    value = loss(u, torch.zeros(4).double(), 1.0, capacity=capacity)
    (first,) = torch.autograd.grad(value, capacity, create_graph=True)
    with pytest.raises(NotImplementedError, match="parameters once"):
        (first**2).backward()


def test_the_loss_does_not_run_backward_through_the_soft_argmax():
    """Its gradient is X - y: a backward solve for zeros costs time, and may fail."""
    soft = sst.SoftArgmax(knapsack(), sst.BinaryEntropy())
    ran = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *gradients):
            ran.append(gradients)
            return gradients[0]

    answer = soft.forward
    soft.forward = lambda *args, **kwargs: Spy.apply(answer(*args, **kwargs))  # type: ignore[method-assign]
    u = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    loss = sst.FenchelYoungLoss(soft)
    loss(u, torch.zeros_like(u), capacity=1.5).backward()
    assert not ran
    capacity = torch.tensor(1.5, requires_grad=True)
    loss(u, torch.zeros_like(u), capacity=capacity).backward()
    assert len(ran) == 1


def test_targets_are_checked_at_the_parameters():
    for name, outside in (
        ("knapsack, Euclidean", [1.0, 1.0, 0.0, 0.0]),
        ("weighted, Euclidean", [0.9, 0.3, 0.0]),
        ("multiplied, Euclidean", [1.0, 1.0, 0.0]),
        ("ball, Euclidean", [0.9, 0.9, 0.0]),
    ):
        make, regularizer, parameters = CASES[name]
        loss = sst.FenchelYoungLoss(sst.SoftArgmax(make(), regularizer()))
        y = torch.tensor([[0.0] * len(outside), outside], dtype=torch.float64)
        if "total" in parameters:
            y[0] = torch.tensor([0.3, 0.5, 0.4])
        with pytest.raises(ValueError, match=r"y must be in conv\(X\) .* batch element 1\."):
            loss(torch.zeros_like(y), y, **parameters)
        assert loss(torch.zeros_like(y[0]), y[0], **parameters).isfinite()
    capacity = torch.tensor([2.0, 1.0])
    y = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(2, 4)
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(knapsack(), sst.Euclidean()))
    with pytest.raises(ValueError, match=r"batch element 1\."):
        loss(torch.zeros(2, 4), y, capacity=capacity)
    assert loss(torch.zeros(1, 4), y[:1], capacity=capacity[:1]).isfinite()


def test_tricks_take_parameters_by_name():
    torch.manual_seed(0)
    structure = knapsack()
    soft = sst.SoftArgmax(structure, sst.BinaryEntropy())
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    capacity = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    trick = sst.StochasticSoftmax(soft, Gumbel(logits, 1.0), 0.5, capacity=capacity)

    def generator():
        return torch.Generator().manual_seed(3)

    relaxed, hard = trick.sample_pair((5,), generator=generator())
    assert bool((hard.sum(-1) <= capacity + 1e-9).all())
    assert bool((relaxed.sum(-1) <= capacity + 1e-6).all())
    assert torch.equal(trick.hard().sample((5,), generator=generator()), hard)
    assert torch.equal(trick.sample((5,), generator=generator()), hard)
    through = trick.rsample((5,), straight_through=True, generator=generator())
    assert torch.equal(through, hard)
    weights = torch.randn_like(relaxed)
    for x in (relaxed, through):
        ours = torch.autograd.grad((x * weights).sum(), (logits, capacity), retain_graph=True)
        u = Gumbel(logits, 1.0).icdf(torch.rand((5, 2, 4), generator=generator(), dtype=torch.float64))
        expected = torch.autograd.grad((soft(u, 0.5, capacity=capacity) * weights).sum(), (logits, capacity))
        assert float(ours[1].abs().max()) > 0.01
        torch.testing.assert_close(ours, expected)
    wide = trick.expand((3, 2))
    assert wide.sample().shape == wide.hard().expand((3, 2)).sample().shape == (3, 2, 4)
    assert bool((wide.sample((7,)).sum(-1) <= capacity + 1e-9).all())
    one = sst.StochasticArgmax(structure, Gumbel(logits, 1.0), capacity=1)  # a number
    assert bool((one.sample((7,)).sum(-1) <= 1).all())
    assert bool((one.expand((3, 2)).sample().sum(-1) <= 1).all())


def test_unknown_and_missing_names_are_told_at_construction():
    gumbel, structure = Gumbel(torch.zeros(2, 4), 1.0), knapsack()
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    loss = sst.FenchelYoungLoss(soft)
    subset = polytopes.KSubset(4, 2)
    zeros = torch.zeros(2, 4)
    for call in (
        lambda **p: sst.StochasticArgmax(structure, gumbel, **p),
        lambda **p: sst.StochasticSoftmax(soft, gumbel, 1.0, **p),
        lambda **p: loss(zeros, zeros, **p),
    ):
        with pytest.raises(TypeError, match=r"missing \['capacity'\]"):
            call()
        with pytest.raises(TypeError, match=r"unknown \['capacty'\]"):
            call(capacity=1.0, capacty=1.0)
        with pytest.raises(ValueError, match=r"parameter capacity has shape \(3,\)"):
            call(capacity=torch.ones(3))
        with pytest.raises(ValueError, match="does not go with hull parameters"):
            call(capacity=1.0, mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(TypeError, match="unknown"):
        sst.StochasticArgmax(subset, gumbel, capacity=1.0)
    with pytest.raises(TypeError, match="unknown"):
        sst.StochasticSoftmax(sst.SoftArgmax(subset, sst.Euclidean()), gumbel, 1.0, temprature=1.0)
    with pytest.raises(TypeError, match="unknown"):
        sst.FenchelYoungLoss(sst.SoftArgmax(subset, sst.Euclidean()))(zeros, zeros, temprature=1.0)
    with pytest.raises(NotImplementedError, match="one-hot"):
        sst.StochasticArgmax(structure, gumbel, capacity=1.0).entropy()
    with pytest.raises(ValueError, match="without hull parameters"):
        sst.ExponentialFamily(structure, zeros)


def test_estimators_differentiate_in_parameters_or_say_that_they_do_not():
    torch.manual_seed(0)
    logits = torch.zeros(50, 4, dtype=torch.float64, requires_grad=True)
    capacity = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    soft = sst.SoftArgmax(knapsack(), sst.Euclidean())
    trick = sst.StochasticSoftmax(soft, Normal(logits + 1, 1.0), 0.1, capacity=capacity)

    def loss_fn(x):
        return x.sum(-1)

    for estimator in (sst.Relaxed(), sst.StraightThrough()):
        (g,) = torch.autograd.grad(estimator(loss_fn, trick, samples=4).mean(), capacity)
        assert float(g) == pytest.approx(1.0, abs=0.1)  # the capacity is used up but for few draws
    fixed = sst.StochasticSoftmax(soft, Normal(logits + 1, 1.0), 0.1, capacity=capacity.detach())
    for estimator in (sst.ScoreFunction("leave_one_out"), sst.ImplicitMLE(), sst.PerturbedOptimizer()):
        with pytest.raises(ValueError, match=r"hull parameters \['capacity'\] require a gradient"):
            estimator(loss_fn, trick, samples=2)
        value = estimator(loss_fn, fixed, samples=2)
        assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


TAKEN = ["u", "x", "y", "mask", "temperature", "structure", "utilities", "soft_argmax", "generator"]


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_arguments_are_taken(name):
    x, p = cp.Variable(2), cp.Parameter(nonneg=True, name=name)
    with pytest.raises(ValueError, match="need distinct names"):
        sst.Structure(x, [x >= 0, cp.sum(x) <= p])


def test_a_python_number_keeps_its_digits():
    structure, third = knapsack(), 1.3
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    u = torch.randn(4, dtype=torch.float64) + 2
    assert torch.equal(soft(u, capacity=third), soft(u, capacity=torch.tensor(third, dtype=torch.float64)))
    assert torch.equal(structure.argmax(u, capacity=third), structure.argmax(u, capacity=tensor(third).detach()))
