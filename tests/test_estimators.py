"""Gradient estimators against exact gradients by enumeration; Fenchel-Young losses against differences."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Gumbel

import polytopes
import sst_cvx as sst
from examples.estimator_bias_variance import STRUCTURES, Problem, basis_probabilities

REPEATS = 20_000


def estimate(problem, estimator, samples=4, temperature=1.0, repeats=REPEATS):
    """Independent estimates ``(repeats, n)``."""
    torch.manual_seed(0)
    theta = problem.theta.expand(repeats, -1).clone().requires_grad_()
    soft = sst.SoftArgmax(problem.structure, sst.ExponentialFamilyEntropy())
    trick = sst.StochasticSoftmax(soft, Gumbel(theta, torch.ones_like(theta)), temperature)
    estimator(problem.loss, trick, samples=samples).sum().backward()
    return theta.grad


def within(estimates, exact):
    error = (estimates.mean(0) - exact).abs() / (estimates.std(0) / len(estimates) ** 0.5)
    return float(error.max()) < 5


@pytest.mark.parametrize("name", STRUCTURES)
def test_score_functions_are_unbiased_and_baselines_help(name):
    problem = Problem(STRUCTURES[name], seed=1)
    plain = estimate(problem, sst.ScoreFunction())
    assert within(plain, problem.exact)
    average = sst.ScoreFunction("moving_average")
    estimate(problem, average, repeats=100)
    constant = torch.zeros(REPEATS, dtype=torch.float64)
    for estimator in (
        sst.ScoreFunction("leave_one_out"),
        sst.ScoreFunction("batch"),
        average,
        sst.ScoreFunction(lambda: constant + 1.5),
    ):
        better = estimate(problem, estimator)
        assert within(better, problem.exact)
        assert float(better.var(0).sum()) < float(plain.var(0).sum())


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_bias_of_relaxations_vanishes_with_the_temperature(name):
    problem = Problem(STRUCTURES[name], seed=1)
    for estimator in (sst.Relaxed(), sst.StraightThrough()):
        warm, cold = ((estimate(problem, estimator, temperature=t).mean(0) - problem.exact).norm() for t in (2.0, 0.1))
        assert float(cold) < 0.25 * float(warm)


def test_linear_losses_are_differentiated_without_bias_by_i_mle_and_perturbed_optimizers():
    """I-MLE is a finite difference: exact up to its step."""
    problem = Problem(STRUCTURES["2 of 5 items"], seed=2)
    a = torch.randn(5, dtype=torch.float64)
    problem.loss = lambda x: (x * a).sum(-1)
    exact = estimate(problem, sst.ScoreFunction("leave_one_out"), samples=16).mean(0)
    assert within(estimate(problem, sst.PerturbedOptimizer()) - exact, torch.zeros(5))
    step, vertices = 0.5, problem.structure.vertices()
    ahead, behind = (basis_probabilities(vertices, problem.theta - h * a) @ vertices for h in (0.0, step))
    assert within(estimate(problem, sst.ImplicitMLE(step)), (ahead - behind) / step)


@pytest.mark.parametrize("name", STRUCTURES)
def test_score_functions_of_exponential_families(name):
    """On exact probabilities: no noise of utilities."""
    problem = Problem(STRUCTURES[name], seed=1)
    vertices = problem.structure.vertices()
    theta = problem.theta.clone().requires_grad_()
    (exact,) = torch.autograd.grad((vertices @ theta).softmax(0) @ problem.loss(vertices), theta)
    many = problem.theta.expand(REPEATS, -1).clone().requires_grad_()
    family = sst.ExponentialFamily(problem.structure, many)
    sst.ScoreFunction("leave_one_out")(problem.loss, family, samples=4).sum().backward()
    assert within(many.grad, exact)


def test_score_functions_refuse_a_support_that_moves():
    low = torch.zeros(3, requires_grad=True)
    utilities = torch.distributions.Uniform(low, low + 2)
    for u in (utilities, torch.distributions.Independent(utilities, 1)):
        trick = sst.StochasticArgmax(polytopes.OneHot(3), u)
        for estimator in (sst.ScoreFunction("leave_one_out"), sst.PerturbedOptimizer()):
            with pytest.raises(ValueError, match="support of Uniform"):
                estimator(lambda x: x[..., 0], trick, samples=2)
        assert sst.ImplicitMLE()(lambda x: x[..., 0], trick, samples=2).isfinite()
    fixed = sst.StochasticArgmax(polytopes.OneHot(3), torch.distributions.Uniform(low.detach(), 1.0))
    assert sst.ScoreFunction()(lambda x: x[..., 0], fixed).isfinite()


def test_the_moving_average_outlives_empty_batches_and_infinite_losses():
    estimator = sst.ScoreFunction("moving_average")
    empty, some = (sst.StochasticArgmax(polytopes.OneHot(3), Gumbel(torch.zeros(n, 3), 1.0)) for n in (0, 2))
    estimator(lambda x: x.sum(-1), empty)
    assert estimator.average is None
    estimator(lambda x: x.sum(-1), some)
    estimator(lambda x: x.sum(-1) / 0, some)
    assert estimator.average == 1.0


def test_losses_of_wrong_kinds_are_refused():
    trick = sst.StochasticSoftmax(
        sst.SoftArgmax(polytopes.OneHot(3), sst.Euclidean()), Gumbel(torch.zeros(2, 3, requires_grad=True), 1.0), 1.0
    )
    for estimator in ESTIMATORS:
        with pytest.raises(TypeError, match="floating-point"):
            estimator(lambda x: x[..., 0] > 0, trick, samples=2)
        estimator(lambda x: torch.ones(x.shape[:-1]), trick, samples=2).sum().backward()  # a constant has no gradient
    with pytest.raises(ValueError, match="gradient of loss_fn"):
        sst.ImplicitMLE()(lambda x: x[..., 0].log(), trick, samples=50)
    with pytest.raises(TypeError, match="must return a tensor"):
        sst.ScoreFunction(lambda: 1.0)(lambda x: x[..., 0], trick)  # type: ignore[arg-type,return-value]


def test_a_learned_baseline_is_trained_along():
    torch.manual_seed(0)
    problem, net = Problem(STRUCTURES["2 of 5 items"], seed=1), torch.nn.Linear(1, 1)
    optimizer, one = torch.optim.Adam(net.parameters(), lr=0.1), torch.ones(64, 1)
    theta = problem.theta.float().expand(64, -1)
    soft = sst.SoftArgmax(problem.structure, sst.Euclidean())
    trick = sst.StochasticSoftmax(soft, Gumbel(theta, 1.0), 1.0)
    estimator = sst.ScoreFunction(lambda: net(one)[:, 0])
    loss_fn = lambda x: problem.loss(x.double()).float()  # noqa: E731
    for _ in range(150):
        optimizer.zero_grad()
        estimator(loss_fn, trick, samples=4).mean().backward()
        optimizer.step()
    mean = float(loss_fn(trick.sample((500,))).mean())
    assert float(net(one[:1]).detach()) == pytest.approx(mean, rel=0.25)


def test_the_value_is_the_loss_and_its_own_parameters_learn():
    problem = Problem(STRUCTURES["2 of 5 items"], seed=1)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    theta = problem.theta.expand(3, -1)
    trick = sst.StochasticSoftmax(sst.SoftArgmax(problem.structure, sst.Euclidean()), Gumbel(theta, 1.0), 1.0)
    for estimator in (sst.Relaxed(), sst.ScoreFunction("leave_one_out"), sst.PerturbedOptimizer(), sst.ImplicitMLE()):
        surrogate = estimator(lambda x: weight * problem.loss(x), trick, samples=4)
        assert surrogate.shape == (3,)
        (g,) = torch.autograd.grad(surrogate.sum(), weight)
        torch.testing.assert_close(g, surrogate.sum().detach())
        with pytest.raises(ValueError, match="loss_fn must return"):
            estimator(lambda x: x.sum(), trick, samples=4)
    unmoved = sst.ImplicitMLE()(lambda x: weight.expand(x.shape[:-1]), trick, samples=4)  # no gradient in x
    assert float(torch.autograd.grad(unmoved.sum(), weight)[0]) == 3.0
    with pytest.raises(ValueError, match="step must be positive"):
        sst.ImplicitMLE(float("inf"))
    with pytest.raises(ValueError, match="at least two"):
        sst.ScoreFunction("leave_one_out")(problem.loss, trick, samples=1)
    with pytest.raises(ValueError, match="baseline must be one of"):
        sst.ScoreFunction("best")
    with pytest.raises(TypeError, match="StochasticSoftmax"):
        sst.Relaxed()(problem.loss, trick.hard())


LOSSES = [
    (polytopes.KSubset(5, 2), sst.Euclidean()),
    (polytopes.KSubset(5, 2), sst.BinaryEntropy()),
    (polytopes.SpanningTree(4), sst.ExponentialFamilyEntropy()),
    (polytopes.SpanningTree(4), sst.CategoricalEntropy()),
    (polytopes.Matching(3), sst.TsallisEntropy(1.5)),
]


@pytest.mark.parametrize(("structure", "regularizer"), LOSSES, ids=str)
def test_fenchel_young_losses(structure, regularizer):
    torch.manual_seed(3)
    soft = sst.SoftArgmax(structure, regularizer)
    loss = sst.FenchelYoungLoss(soft, reduction="none")
    u = torch.randn(2, 3, *structure.event_shape, dtype=torch.float64, requires_grad=True)
    y = structure.argmax(torch.randn_like(u))
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    value = loss(u, y, t)
    assert value.shape == (2, 3)
    assert bool((value >= -1e-9).all())
    (g,) = torch.autograd.grad(value.sum(), u, retain_graph=True)
    torch.testing.assert_close(g, soft(u, 0.7).detach() - y)
    torch.autograd.gradcheck(lambda v, s: loss(v, y, s), (u, t), eps=1e-5, atol=1e-5)
    if soft.path == "fast" and not isinstance(regularizer, sst.Euclidean):
        torch.autograd.gradgradcheck(lambda v, s: loss(v, y, s), (u, t), eps=1e-5, atol=1e-4)
    if not isinstance(regularizer, sst.ExponentialFamilyEntropy):
        at_optimum = loss(u.detach(), soft(u.detach(), 0.7), 0.7)
        torch.testing.assert_close(at_optimum, torch.zeros_like(at_optimum), rtol=0, atol=1e-8)
    mean = sst.FenchelYoungLoss(soft)(u, y, 0.7)
    torch.testing.assert_close(mean, value.mean())


def test_fenchel_young_of_one_hot_is_cross_entropy_and_takes_masks():
    u = torch.randn(4, 6, dtype=torch.float64)
    y = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 6).double()
    mask = sst.length_mask(torch.tensor([6, 5, 4, 3]), 6)
    expected = torch.nn.functional.cross_entropy(u.masked_fill(~mask, -torch.inf), y.argmax(1))
    for regularizer in (sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy()):
        loss = sst.FenchelYoungLoss(sst.SoftArgmax(polytopes.OneHot(6), regularizer))
        torch.testing.assert_close(loss(u, y, mask=mask), expected)
    with pytest.raises(ValueError, match="shape of the utilities"):
        loss(u, y[:2])
    for wrong, match in ((y * torch.nan, "finite"), (2 * y, "conv"), (y.roll(3, 1), "0 where mask is False")):
        with pytest.raises(ValueError, match=match):
            loss(u, wrong, mask=mask)
    with pytest.raises(ValueError, match="reduction"):
        sst.FenchelYoungLoss(loss.soft_argmax, reduction="max")


@pytest.mark.parametrize(
    "structure",
    [
        polytopes.CorrelatedKSubset(5, 2),
        polytopes.Segment(6, 2, 4),
        polytopes.SpanningTree(4),
        polytopes.Arborescence(4),
    ],
    ids=str,
)
def test_targets_of_zeros_and_ones_are_told_exactly(structure):
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(structure, sst.Euclidean()), reduction="none")
    vertices = structure.vertices()
    n = vertices.shape[1]
    points = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double()
    inside = (points[:, None] == vertices).all(-1).any(1)
    assert int(inside.sum()) == len(vertices)
    assert loss(torch.zeros_like(vertices), vertices).shape == (len(vertices),)
    for y in points[~inside][:: max(1, len(points) // 100)]:
        with pytest.raises(ValueError, match="conv"):
            loss(y, y)
    with pytest.raises(ValueError, match="conv"):
        loss(100 * vertices[0], 100 * vertices[0])
    soft_target = vertices[:3].mean(0)
    assert float(loss(torch.zeros(n).double(), soft_target)) >= -1e-9


def test_targets_of_padded_graphs_are_checked_with_their_fillers():
    structure = polytopes.SpanningTree(5)
    loss, mask = (
        sst.FenchelYoungLoss(sst.SoftArgmax(structure, sst.Euclidean())),
        structure.length_mask(torch.tensor(3)),
    )
    tree = structure.masked_argmax(torch.randn(10).double(), mask)
    assert loss(torch.zeros(10).double(), tree, mask=mask).isfinite()
    for y in (5.0 * mask, 0.0 * mask, 1.0 * mask):
        with pytest.raises(ValueError, match="conv"):
            loss(torch.zeros(10).double(), y.double(), mask=mask)


def test_targets_a_rounding_outside_the_domain():
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(polytopes.AtMostKSubset(4, 4), sst.BinaryEntropy()))
    assert loss(torch.zeros(4), torch.tensor([1.0000001, -1e-20, 0.5, 1.0])).isfinite()


def test_half_precision_targets():
    u, y = torch.randn(50, 3).half(), torch.randn(50, 3).half().softmax(-1)
    assert sst.FenchelYoungLoss(sst.SoftArgmax(polytopes.OneHot(3), sst.CategoricalEntropy()))(u, y).isfinite()


ESTIMATORS = [
    sst.Relaxed(),
    sst.StraightThrough(),
    sst.ScoreFunction("leave_one_out"),
    sst.ImplicitMLE(),
    sst.PerturbedOptimizer(),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimators_take_a_generator_and_refuse_what_is_no_number_of_samples(estimator):
    u = torch.randn(3, 5, requires_grad=True)
    soft = sst.SoftArgmax(polytopes.KSubset(5, 2), sst.BinaryEntropy())
    trick = sst.StochasticSoftmax(soft, Gumbel(u, torch.ones(())), 0.5)

    def gradient(seed):
        value = estimator(lambda x: (x**2 * u).sum(-1), trick, samples=3, generator=torch.Generator().manual_seed(seed))
        return torch.autograd.grad(value.sum(), u)[0]

    assert torch.equal(gradient(1), gradient(1))
    assert not torch.equal(gradient(1), gradient(2))
    for samples in (0, -1):
        with pytest.raises(ValueError, match="samples must be at least 1"):
            estimator(lambda x: x.sum(-1), trick, samples=samples)
    with pytest.raises(TypeError, match="StochasticSoftmax"):
        estimator(lambda x: x.sum(-1), trick.utilities)
